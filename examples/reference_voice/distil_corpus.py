"""Stage 9: code shards → a corpus folder that `sottovoce compress … --distill` reads.

`python -m examples.reference_voice.distil_corpus --data work/codes -o work/corpus` writes `manifest.jsonl` and a file
of codes per utterance, of the shards that the decoder learns from; with `--held-out`, of the one it does not.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from examples.reference_voice.speech import SPEAKERS


def write_shard(path: Path, output: Path) -> list[dict[str, str]]:
    """Files of codes of one shard's utterances under `output`; their lines of the manifest."""
    shard = np.load(path)
    lines = []
    rows = zip(np.split(shard["codes"], shard["ends"][:-1]), shard["texts"], shard["speakers"], strict=True)
    for number, (codes, text, speaker) in enumerate(rows):
        name = f"codes/{path.stem[-5:]}_{number:03d}.npy"
        np.save(output / name, codes.astype(np.int16))
        lines.append({"codes": name, "text": str(text), "speaker": str(speaker)})
    return lines


def main() -> None:
    """Write the folder; its manifest comes last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--held-out", action="store_true", help="the last shard instead of all others")
    args = parser.parse_args()
    (args.output / "codes").mkdir(parents=True, exist_ok=True)
    *paths, last = sorted(args.data.glob(f"{'-'.join(SPEAKERS)}_*[0-9].npz"))  # held out, as in stage 5
    chosen = [last] if args.held_out else paths
    lines = [json.dumps(line) for path in chosen for line in write_shard(path, args.output)]
    (args.output / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} utterances")


if __name__ == "__main__":
    main()
