"""The reference voice's codec: 50 codes a second from one FSQ codebook, decoded causally with explicit state.

encoder  log-mel at 100 Hz → 3-tap layers → 2 frames stacked → 3-tap layers at 50 Hz → FSQ digits     (sees both sides)
decoder  digits → causal layers at 50 Hz → 2 frames → causal layers at 100 Hz → spectrum → overlap-add (sees the past
only)

What comes out is `delay` samples late: that is how a causal decoder gets to hear a little of what follows.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sottovoce.errors import VoiceError
from sottovoce.models.fsq import FSQ
from sottovoce.models.spectrum import dft_basis, inverse_basis, mel_filters
from sottovoce.runtime.manifest import CodecSpec, StateSpec
from sottovoce.runtime.strict_json import read_json


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the codec; lengths in samples at `sample_rate`; `level` is the RMS of the speech it knows."""

    sample_rate: int = 16000
    hop: int = 320
    frame: int = 160
    fft: int = 640
    mels: int = 80
    levels: tuple[int, ...] = (4, 4, 4, 4, 4, 4)
    encoder_frame_width: int = 192
    encoder_width: int = 256
    encoder_layers: int = 3
    decoder_width: int = 320
    decoder_layers: int = 5
    decoder_frame_width: int = 256
    decoder_frame_layers: int = 3
    delay: int = 1280
    flush_code: int = 0
    level: float | None = 0.08

    @property
    def per_code(self) -> int:
        """Frames per code."""
        return self.hop // self.frame

    @property
    def flush_codes(self) -> int:
        """Codes to feed after the last one, so that all of it has come out."""
        return -(-self.delay // self.hop)


class Taps(nn.Module):
    """Residual layer over three frames, `x + W2·silu(W1·[x₋, x, x₊])`: a 3-tap convolution written as a matrix
    product."""

    def __init__(self, width: int, hidden: int, causal: bool) -> None:
        """`causal`: taps t-2, t-1, t; otherwise t-1, t, t+1."""
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(3 * width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """`x` `[B,T,d]` after `past` `[B,2,d]` normalised frames → the same shape, and the next `past`."""
        padded = torch.cat([past, self.norm(x)], 1)
        if not self.causal:
            padded = torch.cat([padded[:, 1:], torch.zeros_like(past[:, :1])], 1)
        taps = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], -1)
        return x + self.down(F.silu(self.up(taps))), padded[:, -2:]


class CodecEncoder(nn.Module):
    """Audio → FSQ pre-quantization values."""

    dft: Tensor
    mel: Tensor

    def __init__(self, config: CodecConfig) -> None:
        """Layers by `config`."""
        super().__init__()
        self.config = c = config
        self.register_buffer("dft", dft_basis(c.fft)[:, None], persistent=False)
        self.register_buffer("mel", mel_filters(c.fft // 2 + 1, c.mels, c.sample_rate), persistent=False)
        self.into = nn.Linear(c.mels, c.encoder_frame_width)
        self.frames = nn.ModuleList(Taps(c.encoder_frame_width, 2 * c.encoder_frame_width, False) for _ in range(2))
        self.stack = nn.Linear(c.per_code * c.encoder_frame_width, c.encoder_width)
        self.layers = nn.ModuleList(Taps(c.encoder_width, 2 * c.encoder_width, False) for _ in range(c.encoder_layers))
        self.out = nn.Sequential(nn.LayerNorm(c.encoder_width), nn.Linear(c.encoder_width, len(c.levels)))

    def log_mel(self, audio: Tensor) -> Tensor:
        """`[B,S]` → log-mel frames `[B, S/frame, mels]`, each centred on its frame."""
        side = (self.config.fft - self.config.frame) // 2
        spectrum = F.conv1d(F.pad(audio, (side, side))[:, None], self.dft, stride=self.config.frame)
        real, imag = spectrum.chunk(2, 1)
        power = (real**2 + imag**2).transpose(1, 2)
        return torch.log(power @ self.mel.T + 1e-3)

    def forward(self, audio: Tensor) -> Tensor:
        """`[B,S]` float32 in [-1,1], S a multiple of hop → `[B, S/hop, dims]`."""
        x = self.into(self.log_mel(audio))
        x = _both_sides(self.frames, x)
        x = self.stack(x.reshape(x.shape[0], -1, self.config.per_code * x.shape[-1]))
        return self.out(_both_sides(self.layers, x))


def _both_sides(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """`x` through layers that see both sides, zeros beyond the ends."""
    for layer in layers:
        x, _ = layer(x, torch.zeros_like(x[:, :1]).expand(-1, 2, -1))
    return x


class CodecDecoder(nn.Module):
    """FSQ values → audio, causal, with the state of every layer given and returned."""

    inverse: Tensor

    def __init__(self, config: CodecConfig) -> None:
        """Layers by `config`."""
        super().__init__()
        self.config = c = config
        self.register_buffer("inverse", inverse_basis(c.fft, c.frame), persistent=False)
        self.into = nn.Linear(len(c.levels), c.decoder_width)
        self.layers = nn.ModuleList(Taps(c.decoder_width, 2 * c.decoder_width, True) for _ in range(c.decoder_layers))
        self.split = nn.Linear(c.decoder_width, c.per_code * c.decoder_frame_width)
        self.frames = nn.ModuleList(
            Taps(c.decoder_frame_width, 3 * c.decoder_frame_width // 2, True) for _ in range(c.decoder_frame_layers)
        )
        self.norm = nn.LayerNorm(c.decoder_frame_width)
        self.head = nn.Linear(c.decoder_frame_width, 2 * (c.fft // 2 + 1))

    def init_states(self, batch: int) -> list[Tensor]:
        """Zeros: two frames per layer `[B,2,d]`, then the last windows still to be added up `[B, fft/frame-1, fft]`."""
        c, zeros = self.config, self.into.weight.new_zeros
        return [
            *(zeros(batch, 2, c.decoder_width) for _ in self.layers),
            *(zeros(batch, 2, c.decoder_frame_width) for _ in self.frames),
            zeros(batch, c.fft // c.frame - 1, c.fft),
        ]

    def forward(self, values: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`[B,N,dims]` and the states → audio `[B, N·hop]` float32 and the next states."""
        x, after = self.trunk(values, states)
        windows = torch.cat([states[-1], self._windows(x)], 1)
        return self._overlap_add(windows), [*after, windows[:, 1 - self.config.fft // self.config.frame :]]

    def trunk(self, values: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`[B,N,dims]` and the states → frames `[B, N·hop/frame, d]` and the layers' next states."""
        x, after = self.into(values), []
        for layer, past in zip(self.layers, states, strict=False):
            x, kept = layer(x, past)
            after.append(kept)
        x = self.split(x).reshape(x.shape[0], -1, self.config.decoder_frame_width)
        for layer, past in zip(self.frames, states[len(self.layers) :], strict=False):
            x, kept = layer(x, past)
            after.append(kept)
        return x, after

    def _windows(self, x: Tensor) -> Tensor:
        """Frames `[B,T,d]` → windowed waveforms `[B,T,fft]` from log magnitude and phase."""
        log_magnitude, phase = self.head(self.norm(x)).float().chunk(2, -1)
        magnitude = torch.exp(log_magnitude.clamp(max=6.0))
        return torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], -1) @ self.inverse

    def _overlap_add(self, windows: Tensor) -> Tensor:
        """`[B, T + fft/frame - 1, fft]` → `[B, T·frame]`: piece j of a window falls j frames after its start."""
        frame, overlap = self.config.frame, self.config.fft // self.config.frame
        count = windows.shape[1] - overlap + 1
        pieces = [
            windows[:, overlap - 1 - j : overlap - 1 - j + count, j * frame : (j + 1) * frame] for j in range(overlap)
        ]
        return sum(pieces[1:], pieces[0]).reshape(windows.shape[0], -1)


class Codec(nn.Module):
    """Encoder, codebook and decoder."""

    def __init__(self, config: CodecConfig) -> None:
        """Layers by `config`."""
        super().__init__()
        self.config = config
        self.quantizer = FSQ(config.levels)
        self.encoder = CodecEncoder(config)
        self.decoder = CodecDecoder(config)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.quantizer.size

    def init_states(self, batch: int) -> list[Tensor]:
        """States of the decoder before the first code."""
        return self.decoder.init_states(batch)

    def encode(self, audio: Tensor) -> Tensor:
        """`[B,S]` float32, S a multiple of hop → codes `[B, S/hop]` int64."""
        return self.quantizer.codes(self.encoder(audio))

    def decode(self, codes: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Codes `[B,N]` int64 and the states → audio `[B, N·hop]` (late by `delay`) and the next states."""
        return self.decoder(self.quantizer.values(codes), states)

    def resynthesise(self, codes: Tensor) -> Tensor:
        """Codes `[B,N]` → audio `[B, N·hop]` in time: flushed, and the delay dropped."""
        flush = codes.new_full((codes.shape[0], self.config.flush_codes), self.config.flush_code)
        audio, _ = self.decode(torch.cat([codes, flush], 1), self.init_states(codes.shape[0]))
        return audio[:, self.config.delay : self.config.delay + codes.shape[1] * self.config.hop]

    @classmethod
    def load(cls, folder: Path) -> "Codec":
        """The codec in `folder` (config.json, model.safetensors), float32, in eval mode; raises VoiceError."""
        try:
            value = read_json(folder / "config.json")
            codec = cls(CodecConfig(**{**value, "levels": tuple(value["levels"])}))
            weights = load_file(folder / "model.safetensors")
            codec.load_state_dict({k: v.float() for k, v in weights.items()})
        except Exception as error:
            raise VoiceError(f"{folder}: no usable codec there: {str(error).splitlines()[0]}") from None
        return codec.eval()

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write config.json and model.safetensors into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self.config), indent=1)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        save_file({k: v.to(dtype).contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")


def codec_spec(codec: Codec) -> CodecSpec:
    """`codec` as a bundle's manifest describes it: rates, delay and streaming states."""
    config, states = codec.config, codec.init_states(1)
    return CodecSpec(
        sample_rate=config.sample_rate,
        hop=config.hop,
        delay=config.delay,
        flush_codes=config.flush_codes,
        flush_code=config.flush_code,
        level=config.level,
        states=tuple(StateSpec(f"state.{i}", tuple(state.shape)) for i, state in enumerate(states)),
    )
