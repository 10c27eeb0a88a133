"""Stage 4: speech shards → code shards.

`python -m examples.reference_voice.tokenise --data work/speech --codec work/codec -o work/codes` encodes every
utterance by itself (as a reference clip is encoded at run time) and keeps texts, speakers and a phone label per code.
Shards that exist are skipped.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from examples.reference_voice.speech import FRAME
from sottovoce.models.codec import Codec


def encode(codec: Codec, audio: np.ndarray) -> np.ndarray:
    """Codes `[N]` int16 of one utterance (int16 samples), padded with silence to whole codes."""
    padded = np.pad(audio.astype(np.float32) / 32768, (0, -len(audio) % codec.config.hop))
    with torch.inference_mode():
        codes: np.ndarray = codec.encode(torch.from_numpy(padded)[None])[0].numpy().astype(np.int16)
    return codes


def labels(phones: np.ndarray, codes: int) -> np.ndarray:
    """Of phone labels [frames], two per code, the second of every code's `[codes]`; a pause where they have ended."""
    return np.pad(phones[1::2], (0, 1))[:codes]


def main() -> None:
    """Encode the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = Codec.load(args.codec)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(args.data.glob("*[0-9].npz")):
        target = args.output / path.name
        if target.exists():
            continue
        shard = np.load(path)
        codes = [encode(codec, a) for a in np.split(shard["audio"], shard["ends"][:-1])]
        named = np.split(shard["phones"], shard["ends"][:-1] // FRAME)
        rest = {k: shard[k] for k in ("texts", "speakers")}
        part = target.with_suffix(".part.npz")
        np.savez(
            part,
            codes=np.concatenate(codes),
            phones=np.concatenate([labels(n, len(c)) for n, c in zip(named, codes, strict=True)]),
            ends=np.cumsum([len(c) for c in codes]),
            **rest,
        )
        part.replace(target)
        print(target.name, flush=True)


if __name__ == "__main__":
    main()
