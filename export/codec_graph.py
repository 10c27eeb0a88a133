"""Codec → `codec_decoder.onnx` (codes and streaming states in, audio and next states out) and `codec_encoder.onnx`.

Traced by torch.onnx.export, then stripped of what the tracer leaves behind (source paths, symbol names), so that the
same codec gives the same bytes everywhere. Weights stay inside the .onnx file: they are small.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from sottovoce.export.codec_weights import in_eight_bits, in_half
from sottovoce.models.codec import Codec
from sottovoce.runtime.manifest import CodecFormat

OPSET = 20
"""ONNX opset of the codec graphs; ONNX Runtime 1.22 reads up to 22."""

IR_VERSION = 10
"""Newest file format that ONNX Runtime 1.22 accepts."""

TRACE_CODES = 7
"""Codes in the traced example; an odd number, so that it cannot be mistaken for a constant of the codec."""


class _Decode(nn.Module):
    """`Codec.decode` as a forward function, its results in one flat tuple."""

    def __init__(self, codec: Codec) -> None:
        """Wrap `codec`."""
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        """codes [1, N] int64, states → audio [1, N·hop] float32, next states."""
        audio, following = self.codec.decode(codes, states)
        return (audio, *following)


class _Encode(nn.Module):
    """`Codec.encode` as a forward function."""

    def __init__(self, codec: Codec) -> None:
        """Wrap `codec`."""
        super().__init__()
        self.codec = codec

    def forward(self, audio: Tensor) -> Tensor:
        """audio [1, S] float32 → codes [1, N] int64."""
        return self.codec.encode(audio)


def codec_graphs(codec: Codec, weights: CodecFormat = "fp32") -> dict[str, onnx.ModelProto]:
    """Both graphs by file name; `weights` are the decoder's."""
    decoder = decoder_graph(codec)
    if weights != "fp32":
        {"fp16": in_half, "int8": in_eight_bits}[weights](decoder)
    return {"codec_decoder.onnx": decoder, "codec_encoder.onnx": encoder_graph(codec)}


def decoder_graph(codec: Codec) -> onnx.ModelProto:
    """codes [1, N] int64, state.{i} → audio [1, S] float32, next_state.{i}; any N ≥ 1."""
    states = codec.init_states(1)
    names = [f"state.{i}" for i in range(len(states))]
    codes = torch.zeros(1, TRACE_CODES, dtype=torch.long)
    dynamic = ({1: torch.export.Dim("codes", min=1)}, [None] * len(states))
    outputs = ["audio", *(f"next_{name}" for name in names)]
    return _trace(_Decode(codec), (codes, states), dynamic, ["codes", *names], outputs)


def encoder_graph(codec: Codec) -> onnx.ModelProto:
    """audio [1, S] float32, S a multiple of the hop → codes [1, N] int64."""
    hop = codec.config.hop
    audio = torch.zeros(1, TRACE_CODES * hop)
    return _trace(_Encode(codec), (audio,), ({1: hop * torch.export.Dim("codes", min=1)},), ["audio"], ["codes"])


def _trace(
    module: nn.Module, example: tuple[Any, ...], dynamic: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The graph of `module`, tidied; `dynamic` names the axes of `example` that vary."""
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # None only where a file name is given
    model = program.model_proto
    _tidy(model)
    onnx.checker.check_model(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hush the exporter: it prints its stages and warns of things that no user of this package can act on."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _tidy(model: onnx.ModelProto) -> None:
    """Drop the tracer's notes (they hold paths of this machine) and call the one varying axis N or S."""
    model.ir_version = IR_VERSION
    graph = model.graph
    del graph.value_info[:]
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        del item.metadata_props[:]
        item.doc_string = ""
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "S" if value.name == "audio" else "N"
