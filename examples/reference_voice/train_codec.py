"""Stage 3: the codec, in two steps.

`python -m examples.reference_voice.train_codec mel --data work/speech -o work/codec` learns codes: encoder, codebook
and the decoder's layers, which say the log-mel frames. That takes no waveform and no Fourier transform of one, so
minutes see tens of hours. `… wave --data work/speech --codec work/codec -o work/codec2` then keeps the encoder and
teaches the decoder to say the waveform, by spectral losses at several resolutions, no adversary. Codes do not change
any more: a decoder can be trained on them meanwhile. Checkpoints every 500 steps; run again to resume. With `torchrun
--nproc-per-node N -m …` N processes share the work.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from examples.reference_voice.speech import FRAME, NUMBER
from sottovoce.models.codec import Codec, CodecConfig
from sottovoce.models.spectrum import dft_basis, mel_filters

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))

SHORT = 256
"""Window of the short frames, samples."""

PHONES = 0.1
"""Weight of the two phone classifiers."""

ENVELOPE = 20
"""Cosine coefficients of a log-mel frame that are its envelope: without the harmonics of a high voice."""

FLOOR = 0.03
"""Power under which a spectral bin counts as silence: half of all bins are, and would take half of the loss."""

BANDS = 26
"""Broad mel bands of a 32 ms window: they show formants whatever the pitch."""

QUIET = 2e-3
"""Power under which a broad band counts as silence: lower than FLOOR, for consonants are quieter than vowels."""


Shard = tuple[np.ndarray, np.ndarray]


def load_shards(folder: Path, shards: int) -> list[Shard]:
    """int16 audio, and a phone label per 10 ms, of the first `shards` shards of every speaker set."""
    paths = [p for p in sorted(folder.glob("*[0-9].npz")) if int(p.stem[-5:]) < shards]
    return [(shard["audio"], shard["phones"]) for shard in map(np.load, paths)]


def crops(shards: list[Shard], rng: np.random.Generator, batch: int, samples: int) -> tuple[Tensor, Tensor]:
    """Random stretches `[batch, samples]` float32, and their labels `[batch, frames]` int64."""
    out, phones = np.empty((batch, samples), np.float32), np.empty((batch, samples // FRAME), np.int64)
    sizes = np.array([len(a) for a, _ in shards], float)
    for row, labels in zip(out, phones, strict=True):
        audio, named = shards[rng.choice(len(shards), p=sizes / sizes.sum())]
        first = rng.integers(len(named) - samples // FRAME)
        row[:] = audio[first * FRAME : first * FRAME + samples] / 32768
        labels[:] = named[first : first + samples // FRAME]
    return torch.from_numpy(out), torch.from_numpy(phones)


class MelLoss(nn.Module):
    """L1 between log-mel frames of the audio and those that linear layers read off the decoder's frames.

    Fine frames (40 ms, 80 bands) show the harmonics; short, broad ones (16 ms, 40 bands) the formants, which words
    hang on and which would otherwise be outvoted. Two classifiers name the phone of every frame, one from the
    decoder's frames, one from the code alone: so that codes are spent on what is said first (as in supervised speech
    tokens, arXiv 2407.05407).
    """

    dft: Tensor
    mel: Tensor
    smooth: Tensor

    def __init__(self, codec: Codec) -> None:
        """Adds the linear layers, which the finished codec does without."""
        super().__init__()
        self.codec, config = codec, codec.config
        self.say = nn.ModuleList(nn.Linear(config.decoder_frame_width, bands) for bands in (config.mels, 40))
        self.name = nn.Linear(config.decoder_frame_width, len(NUMBER) + 1)
        hidden, per_code = 128, config.per_code
        self.name_code = nn.Sequential(
            nn.Linear(len(config.levels), hidden), nn.SiLU(), nn.Linear(hidden, per_code * (len(NUMBER) + 1))
        )
        for layer in self.say:
            nn.init.constant_(layer.bias, -2.0)  # about the mean of log-mel frames
        self.register_buffer("dft", dft_basis(SHORT)[:, None], persistent=False)
        self.register_buffer("mel", mel_filters(SHORT // 2 + 1, 40, config.sample_rate), persistent=False)
        angles = math.pi / config.mels * torch.outer(torch.arange(config.mels) + 0.5, torch.arange(ENVELOPE))
        cosines = F.normalize(torch.cos(angles), dim=0)
        self.register_buffer("smooth", cosines @ cosines.T, persistent=False)

    def forward(self, audio: Tensor, phones: Tensor) -> Tensor:
        """Audio `[B,S]` and labels `[B,S/frame]` → scalar."""
        codec, config = self.codec, self.codec.config
        values = codec.quantizer(codec.encoder(audio).float())
        frames, _ = codec.decoder.trunk(values, codec.init_states(len(audio)))
        # A window of the decoder is centred half its length after its start; the delay is what it may know ahead.
        late = (config.delay - config.fft // 2 + config.frame // 2) // config.frame
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            floor = torch.tensor(math.log(FLOOR))
            wanted = torch.logaddexp(codec.encoder.log_mel(audio), floor), self.short(audio)
        fine, short = (
            say(frames)[:, late:].float() - target[:, :-late] for say, target in zip(self.say, wanted, strict=True)
        )
        with torch.autocast("cpu", enabled=False):
            spectra = 0.5 * fine.abs().mean() + short.abs().mean() + 2 * (fine @ self.smooth).abs().mean()
        named = F.cross_entropy(self.name(frames)[:, late:].float().flatten(0, 1), phones[:, :-late].flatten())
        by_code = self.name_code(values).float().unflatten(-1, (config.per_code, -1)).flatten(1, 2)
        return spectra + PHONES * (named + F.cross_entropy(by_code.mT, phones))

    def short(self, audio: Tensor) -> Tensor:
        """`[B,S]` → short, broad log-mel frames `[B, S/frame, 40]`, each centred on its frame."""
        side = (SHORT - self.codec.config.frame) // 2
        real, imag = F.conv1d(F.pad(audio, (side, side))[:, None], self.dft, stride=self.codec.config.frame).chunk(2, 1)
        return torch.log((real**2 + imag**2).transpose(1, 2) @ self.mel.T + FLOOR)


class WaveLoss(nn.Module):
    """Spectral convergence, log-magnitude L1 and log-mel L1 at several resolutions, broad bands; the encoder stays."""

    mel: Tensor
    broad: Tensor

    def __init__(self, codec: Codec) -> None:
        """Freezes the encoder."""
        super().__init__()
        self.codec = codec
        codec.encoder.requires_grad_(False)
        self.register_buffer("mel", mel_filters(513, 80, codec.config.sample_rate), persistent=False)
        self.register_buffer("broad", mel_filters(257, BANDS, codec.config.sample_rate), persistent=False)

    def forward(self, audio: Tensor, phones: Tensor) -> Tensor:
        """Audio `[B,S]` → scalar; the labels are not used."""
        codec, delay = self.codec, self.codec.config.delay
        with torch.no_grad():
            values = codec.quantizer(codec.encoder(audio).float())
        made, _ = codec.decoder(values, codec.init_states(len(audio)))
        return self.spectral(made[:, delay:].float(), audio[:, :-delay].float())

    def spectral(self, made: Tensor, real: Tensor) -> Tensor:
        """The loss between waveforms `[B,S]`."""
        total = made.new_zeros(())
        for size, hop in RESOLUTIONS:
            window = torch.hann_window(size)
            both = torch.stft(torch.cat([made, real]), size, hop, window=window, return_complex=True)
            magnitude = torch.view_as_real(both).pow(2).sum(-1).clamp(min=1e-8).sqrt()
            a, b = magnitude.chunk(2)
            total = total + (a - b).norm() / b.norm() + F.l1_loss(torch.log(a + FLOOR**0.5), torch.log(b + FLOOR**0.5))
            if size == 512:
                logs = torch.log(self.broad @ magnitude**2 + QUIET)
                total = total + 2 * F.l1_loss(*logs.chunk(2))
            if size == 1024:
                logs = torch.log((self.mel @ magnitude) + FLOOR**0.5)
                total = total + 4 * F.l1_loss(*logs.chunk(2))
        return total


def save(path: Path, loss: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """The whole training state, replaced at once; and the codec alone, as a folder."""
    part = path.with_suffix(".part")
    torch.save({"loss": loss.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)
    codec = loss.codec
    codec.config = CodecConfig(**{**codec.config.__dict__, "flush_code": silence_code(codec)})
    codec.save(path.parent)


def silence_code(codec: Codec) -> int:
    """The code that silence gives."""
    with torch.no_grad():
        codes = codec.encode(torch.zeros(1, 10 * codec.config.hop))
    return int(codes[0].mode().values)


def rate(step: int, args: argparse.Namespace) -> float:
    """Learning rate: linear warm-up over 200 steps, cosine to 4 %."""
    return float(
        args.lr * min(1, (step + 1) / 200) * (0.04 + 0.96 * (0.5 + 0.5 * math.cos(math.pi * step / args.steps)))
    )


def train(args: argparse.Namespace, rank: int) -> None:
    """Train up to `args.steps`, resuming where a checkpoint is found; every process draws crops of its own."""
    torch.manual_seed(args.seed)
    codec = Codec.load(args.codec).train() if args.codec else Codec(CodecConfig())
    loss_of = WaveLoss(codec) if args.step == "wave" else MelLoss(codec)
    weights = [p for p in loss_of.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, betas=(0.8, 0.99), weight_decay=0.01)
    args.output.mkdir(parents=True, exist_ok=True)
    path, first = args.output / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        loss_of.load_state_dict(state["loss"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    parallel = DistributedDataParallel(loss_of, find_unused_parameters=True) if dist.is_initialized() else loss_of
    shards = load_shards(args.data, args.shards)
    began, recent = time.time(), []
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args)
        x, phones = crops(
            shards, np.random.default_rng([args.seed, step, rank]), args.batch, args.codes * codec.config.hop
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = parallel(x, phones)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 50 == 0 and rank == 0:
            row = {"step": step + 1, "loss": round(float(np.mean(recent)), 4), "seconds": round(time.time() - began, 1)}
            print(json.dumps(row), flush=True)
            recent = []
        if ((step + 1) % 500 == 0 or step + 1 == args.steps) and rank == 0:
            save(path, loss_of, optimizer, step + 1)


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name, defaults in {"mel": (14000, 8, 64, 2e-3), "wave": (5000, 10, 64, 6e-4)}.items():
        step = steps.add_parser(name)
        for option, value in zip(("--steps", "--batch", "--codes"), defaults, strict=False):
            step.add_argument(option, type=int, default=value)
        step.add_argument("--lr", type=float, default=defaults[3])
        step.add_argument("--data", type=Path, required=True)
        step.add_argument("--shards", type=int, default=60)
        step.add_argument("--seed", type=int, default=1)
        step.add_argument("-o", "--output", type=Path, required=True)
        step.add_argument("--codec", type=Path, required=name == "wave", help="codec to start from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    train(args, int(os.environ.get("RANK", 0)))


if __name__ == "__main__":
    main()
