"""Stage 3: the codec.

`python -m examples.reference_voice.train_codec --data work/speech -o work/codec` learns to resynthesise speech:
log-magnitude and spectral-convergence losses at several resolutions and a log-mel loss, no adversary. `--decoder-only
CODEC` goes on with the encoder of another run frozen, so that codes (and a decoder trained on them) keep their
meaning. Checkpoints every 500 steps; run again to resume.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sottovoce.models.codec import Codec, CodecConfig
from sottovoce.models.spectrum import mel_filters

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))


def load_audio(folder: Path, shards: int) -> list[np.ndarray]:
    """int16 audio of the first `shards` shards of every speaker set."""
    return [np.load(p)["audio"] for p in sorted(folder.glob("*.npz")) if int(p.stem[-5:]) < shards]


def crops(audio: list[np.ndarray], rng: np.random.Generator, batch: int, samples: int) -> Tensor:
    """Random stretches `[batch, samples]` float32, each at a random level."""
    out = np.empty((batch, samples), np.float32)
    sizes = np.array([len(a) for a in audio], float)
    for row in out:
        shard = audio[rng.choice(len(audio), p=sizes / sizes.sum())]
        start = rng.integers(len(shard) - samples)
        row[:] = shard[start : start + samples] / 32768 * rng.uniform(0.7, 1.2)
    return torch.from_numpy(out)


def spectral_loss(made: Tensor, real: Tensor, mel: Tensor) -> Tensor:
    """Sum over resolutions of spectral convergence and log-magnitude L1, plus log-mel L1; inputs `[B,S]`."""
    total = made.new_zeros(())
    for size, hop in RESOLUTIONS:
        window = torch.hann_window(size)
        both = torch.stft(torch.cat([made, real]), size, hop, window=window, return_complex=True)
        magnitude = torch.view_as_real(both).pow(2).sum(-1).clamp(min=1e-8).sqrt()
        a, b = magnitude.chunk(2)
        total = total + (a - b).norm() / b.norm() + F.l1_loss(torch.log(a + 1e-2), torch.log(b + 1e-2))
        if size == 1024:
            logs = torch.log((mel @ magnitude) + 1e-2)
            total = total + 2 * F.l1_loss(*logs.chunk(2))
    return total


def save(path: Path, codec: Codec, optimizer: torch.optim.Optimizer, step: int) -> None:
    """The whole training state, replaced at once."""
    part = path.with_suffix(".part")
    torch.save({"codec": codec.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def train(args: argparse.Namespace) -> None:
    """Train up to `args.steps`, resuming where a checkpoint is found."""
    torch.manual_seed(args.seed)
    codec = Codec.load(args.decoder_only).train() if args.decoder_only else Codec(CodecConfig())
    if args.decoder_only:
        codec.encoder.requires_grad_(False)
    weights = [p for p in codec.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, betas=(0.8, 0.99), weight_decay=0.01)
    args.output.mkdir(parents=True, exist_ok=True)
    path, first = args.output / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        codec.load_state_dict(state["codec"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    audio = load_audio(args.data, args.shards)
    mel = mel_filters(513, 80, codec.config.sample_rate)
    began, recent = time.time(), []
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                args.lr * min(1, (step + 1) / 300) * (0.04 + 0.96 * (0.5 + 0.5 * math.cos(math.pi * step / args.steps)))
            )
        rng = np.random.default_rng([args.seed, step])
        x = crops(audio, rng, args.batch, args.codes * codec.config.hop)
        with torch.autocast("cpu", torch.bfloat16):
            values = codec.quantizer(codec.encoder(x).float())
            y, _ = codec.decoder(values, codec.init_states(len(x)))
        delay = codec.config.delay
        loss = spectral_loss(y[:, delay:].float(), x[:, :-delay], mel)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "loss": round(float(np.mean(recent)), 4), "seconds": round(time.time() - began, 1)}
            print(json.dumps(row), flush=True)
            recent = []
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            save(path, codec, optimizer, step + 1)
    codec.config = CodecConfig(**{**codec.config.__dict__, "flush_code": silence_code(codec)})
    codec.save(args.output)


def silence_code(codec: Codec) -> int:
    """The code that silence gives."""
    with torch.no_grad():
        codes = codec.encode(torch.zeros(1, 10 * codec.config.hop))
    return int(codes[0].mode().values)


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--decoder-only", type=Path, metavar="CODEC")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--codes", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
