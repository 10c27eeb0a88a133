"""optimum-onnx: transformers traced to ONNX, with a cache that grows, run by its own model class."""

import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from benchmarks.peers.serve import main

CHUNK = 256
"""Tokens read at once."""

PLAIN, QUANTIZED = "model.onnx", "model_quantized.onnx"


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """Its exporter's graph; for int8, dynamic quantization with its preset for AVX-512 VNNI."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        plain = Path(name) if format == "int8" else folder
        ORTModelForCausalLM.from_pretrained(checkpoint, export=True).save_pretrained(plain)
        if format == "int8":
            preset = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
            ORTQuantizer.from_pretrained(plain, file_name=PLAIN).quantize(preset, folder)


class Optimum:
    """Keys and values go in as torch tensors and come out one longer."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Session options are onnxruntime's own but for the threads."""
        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.model = ORTModelForCausalLM.from_pretrained(
            folder, file_name=QUANTIZED if format == "int8" else PLAIN, session_options=options
        )
        self.past: Any = None
        self.count = 0

    def _run(self, ids: list[int]) -> Any:
        """Logits after `ids`."""
        end = self.count + len(ids)
        out = self.model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones((1, end), dtype=torch.int64),
            position_ids=torch.arange(self.count, end)[None],
            past_key_values=self.past,
            use_cache=True,
        )
        self.past, self.count = out.past_key_values, end
        return out.logits[0, -1].numpy()

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`."""
        for start in range(self.count, len(ids), CHUNK):
            logits = self._run(ids[start : start + CHUNK])
        return logits

    def step(self, token: int) -> Any:
        """See `Contender`."""
        return self._run([token])


if __name__ == "__main__":
    main(prepare, Optimum)
