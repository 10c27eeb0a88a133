"""The codec's decoder as package or asset: N codes a run, in the engine's layout, states as inputs and outputs.

Two functions over one set of weights, of MANY codes and of one: a stream of any length is so many runs of the one and
the rest of the other, without padding, which would enter the states. The host looks up the values of codes in VALUES.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.errors import OutputError
from sottovoce.export.coreml.convert import Traceable
from sottovoce.export.coreml.kinds import Kind
from sottovoce.export.coreml.modules import Norm, convolution
from sottovoce.models.codec import Codec, CodecDecoder, Taps
from sottovoce.runtime.manifest import StateSpec

VALUES = "codec_values.npy"
"""Rows [codes, dims] float16: what a code stands for."""

MANY = 32
"""Codes of the longer function: its last axes are whole lines of the engine's memory."""


class SlotTaps(nn.Module):
    """A residual layer over three frames, its matrix product as a convolution of three taps."""

    def __init__(self, source: Taps) -> None:
        """Over the weights of `source`."""
        super().__init__()
        self.norm, self.down = Norm(source.norm), convolution(source.down)
        weight = source.up.weight.detach()
        taps = weight.reshape(len(weight), 3, -1).permute(0, 2, 1)[:, :, None].contiguous()
        self.up = nn.Conv2d(taps.shape[1], taps.shape[0], (1, 3), device="meta")
        self.up.weight = nn.Parameter(taps, requires_grad=False)
        self.up.bias = nn.Parameter(source.up.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x [1,C,1,T] after past [1,2C,1,1] → the same shapes."""
        channels = x.shape[1]
        padded = torch.cat([past.reshape(1, channels, 1, 2), self.norm(x)], 3)
        return x + self.down(F.silu(self.up(padded))), padded[:, :, :, -2:].reshape(1, 2 * channels, 1, 1)


class SlotCodec(nn.Module):
    """Values of N codes and states → audio and states."""

    def __init__(self, source: CodecDecoder) -> None:
        """Over the weights of `source`."""
        super().__init__()
        self.config, c = source.config, source.config
        self.into, self.split, self.head = map(convolution, (source.into, source.split, source.head))
        self.layers = nn.ModuleList(SlotTaps(layer) for layer in source.layers)
        self.frames = nn.ModuleList(SlotTaps(layer) for layer in source.frames)
        self.norm = Norm(source.norm)
        self.inverse = convolution(source.inverse.T.contiguous())
        self.overlap = c.fft // c.frame

    def forward(self, values: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """values [1,dims,1,N], states [1,·,1,1] → audio [1,hop,1,N], a code's samples in a column, and states."""
        c, after = self.config, []
        x = self.into(values)
        for layer, past in zip(self.layers, states, strict=False):
            x, kept = layer(x, past)
            after.append(kept)
        codes = x.shape[-1]
        x = self.split(x).reshape(1, c.per_code, c.decoder_frame_width, codes)
        x = x.permute(0, 2, 3, 1).reshape(1, c.decoder_frame_width, 1, codes * c.per_code)
        for layer, past in zip(self.frames, states[len(self.layers) :], strict=False):
            x, kept = layer(x, past)
            after.append(kept)
        past = states[-1].reshape(1, c.fft, 1, self.overlap - 1)
        windows = torch.cat([past, self._windows(x)], 3)
        last = windows[:, :, :, 1 - self.overlap :].reshape(1, c.fft * (self.overlap - 1), 1, 1)
        return (self._audio(windows, codes), *after, last)

    def _windows(self, x: Tensor) -> Tensor:
        """Frames [1,C,1,T] → windowed waveforms [1,fft,1,T]."""
        spectrum = self.head(self.norm(x))
        half = spectrum.shape[1] // 2
        magnitude, phase = torch.exp(spectrum[:, :half].clamp(max=6.0)), spectrum[:, half:]
        return self.inverse(torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], 1))

    def _audio(self, windows: Tensor, codes: int) -> Tensor:
        """Waveforms [1, fft, 1, T + overlap − 1] added where they overlap → [1, hop, 1, N]."""
        c, overlap = self.config, self.overlap
        count = windows.shape[-1] - overlap + 1
        pieces = [
            windows[:, j * c.frame : (j + 1) * c.frame, :, overlap - 1 - j : overlap - 1 - j + count]
            for j in range(overlap)
        ]
        frames = sum(pieces[1:], pieces[0])  # [1, frame, 1, T], T = N · per_code
        return frames.reshape(1, c.frame, codes, c.per_code).permute(0, 3, 1, 2).reshape(1, c.hop, 1, codes)


def state_specs(codec: Codec) -> tuple[StateSpec, ...]:
    """The states as the package has them, [1, ·, 1, 1]."""
    states = codec.init_states(1)
    return tuple(StateSpec(f"state_{i}", (1, state.numel(), 1, 1)) for i, state in enumerate(states))


def function_name(codes: int) -> str:
    """The function of the package that takes `codes` codes."""
    return f"codes_{codes}"


def codec_functions(codec: Codec, sizes: Sequence[int] = (MANY, 1)) -> dict[str, Traceable]:
    """A function for each number of codes in `sizes`."""
    module, states = SlotCodec(codec.decoder), {spec.name: spec.shape for spec in state_specs(codec)}
    outputs = ["audio", *(f"next_{name}" for name in states)]
    dims = len(codec.config.levels)
    return {
        function_name(size): Traceable(module, {"values": (1, dims, 1, size), **states}, outputs, {}) for size in sizes
    }


def write_codec(codec: Codec, folder: Path, kind: Kind) -> None:
    """Write what `kind` reads, weights fp16, and VALUES into `folder`; OutputError where the disk refuses."""
    values = codec.quantizer.values(torch.arange(codec.codebook_size))
    try:
        np.save(folder / VALUES, values.to(torch.float16).numpy())
    except OSError as error:
        raise OutputError(f"{folder / VALUES} cannot be written: {error}") from error
    kind.write(codec_functions(codec), "fp16", folder / kind.codec)
