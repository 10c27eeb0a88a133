"""Tiny voices and decoders in the sizes that the Neural Engine's layout asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from sottovoce.__main__ import main
from sottovoce.export import plan
from sottovoce.export.coreml.convert import Traceable
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from tests import tiny

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "head_dim": 32}


def engine_voice(folder: Path, family: str = "qwen2", **section: Any) -> Path:
    """A voice of two layers, two heads of 32 on one KV head."""
    return tiny.save_voice(folder, family, SIZES, **section)


def exported(voice: Path, target: Path, *more: str) -> Path:
    """The fp16 bundle `target` of a voice, `more` asked for; tracing the ONNX codec is not what they test."""
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "encoder", [], []))
    options = ["--target", "coreml", "--weights", "fp16", "--threads", "1", *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "codec_graphs", lambda *_: {"codec_encoder.onnx": graph})
        assert main(["export", str(voice), "-o", str(target), *options]) == 0
    return target


def random_decoder(family: str, **changes: Any) -> Decoder:
    """A decoder with opinions: matrices wide enough that a wrong cache shows; numbers that half precision holds."""
    hf = tiny.hf_config(family, **{**SIZES, **changes})
    decoder = Decoder(DecoderConfig.from_hf(hf)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15, generator=generator)
            elif "norm" not in name and "ln" not in name:
                parameter.normal_(0, 0.1, generator=generator)
            parameter.copy_(parameter.half().float())
    return decoder


class Eager:
    """Runs the modules themselves in float32: what is wrong here is wrong before any conversion."""

    def __init__(self, functions: Mapping[str, Traceable]) -> None:
        self._functions = functions

    def run(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = self._functions[function]
        with torch.no_grad():
            outputs = made.module(*(torch.from_numpy(inputs[name]).float() for name in made.inputs))
        return {name: output.numpy() for name, output in zip(made.outputs, outputs, strict=True)}

    def fill(self, states: Mapping[str, np.ndarray]) -> None:
        for made in self._functions.values():
            for name, array in states.items():
                getattr(made.module, name).copy_(torch.from_numpy(array).float())

    def states(self) -> dict[str, np.ndarray]:
        made = next(iter(self._functions.values()))
        return {name: getattr(made.module, name).numpy() for name in made.states}
