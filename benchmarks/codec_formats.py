"""The codec's decoder in fp32, fp16 and int8, chunk by chunk: time, size, and what rounding adds to the audio.

    python -m benchmarks.codec_formats [--codec voices/reference/codec] [--threads 1] [--rounds 30]

The graphs take turns in one process, over the codes of the voice's presets. Gate: in every chunk each takes the time of
fp32 at most, and the 3 % by which timings vary; exit status 1 where one takes more.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from sottovoce.export.codec_graph import decoder_graph
from sottovoce.export.codec_weights import in_eight_bits, in_half
from sottovoce.models.codec import Codec, codec_spec
from sottovoce.runtime.manifest import CodecFormat, CodecSpec
from sottovoce.runtime.session import open_session

FORMATS: Final[tuple[CodecFormat, ...]] = ("fp32", "fp16", "int8")
CHUNKS: Final = (8, 16, 32, 50)
"""Codes that the runtime decodes at once, of the reference voice: 0.16 s first, doubling to a second."""

NOISY: Final = 1.03
"""What two timings of the same graph differ by."""


class Decoder:
    """A session as the runtime opens it, and zeros for its states."""

    def __init__(self, path: Path, spec: CodecSpec, threads: int) -> None:
        """Of the graph at `path`."""
        self.session = open_session(path, threads)
        self.states = {state.name: np.zeros(state.shape, np.float32) for state in spec.states}

    def audio(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """codes [1,N] → audio [1,S]."""
        made: NDArray[np.float32] = self.session.run(["audio"], {"codes": codes, **self.states})[0]
        return made

    def seconds(self, codes: NDArray[np.int64]) -> float:
        """How long that takes."""
        start = time.perf_counter()
        self.audio(codes)
        return time.perf_counter() - start


def make_graphs(codec: Codec, folder: Path) -> dict[CodecFormat, Path]:
    """The decoder's graph in each format, traced once."""
    made, graph = {name: folder / f"{name}.onnx" for name in FORMATS}, decoder_graph(codec)
    onnx.save(graph, made["fp32"])
    in_half(half := deepcopy(graph))
    onnx.save(half, made["fp16"])
    in_eight_bits(graph)
    onnx.save(graph, made["int8"])
    return made


def measure(
    decoders: Mapping[CodecFormat, Decoder], codes: NDArray[np.int64], rounds: int
) -> dict[int, dict[CodecFormat, float]]:
    """Median seconds by chunk and format, in turns."""
    found = {}
    for size in CHUNKS:
        chunk = np.resize(codes, (1, size))
        turns = [{name: decoder.seconds(chunk) for name, decoder in decoders.items()} for _ in range(rounds)]
        found[size] = {name: statistics.median(turn[name] for turn in turns) for name in decoders}
    return found


def report(found: Mapping[int, Mapping[CodecFormat, float]]) -> bool:
    """Print a line per chunk; True where no format is ever slower than fp32."""
    met = True
    for size, seconds in found.items():
        ratios = {name: seconds[name] / seconds["fp32"] for name in seconds}
        met &= (good := max(ratios.values()) <= NOISY)
        times = ", ".join(f"{name} {1e3 * value:.2f} ms ({ratios[name]:.2f} ×)" for name, value in seconds.items())
        print(f"{'ok  ' if good else 'MISS'} {size} codes: {times}")
    return met


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codec", type=Path, default=Path("voices/reference/codec"), help="its folder")
    parser.add_argument("--prompts", type=Path, default=Path("voices/reference/prompts"), help="codes to say")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each")
    args = parser.parse_args(argv)
    codec = Codec.load(args.codec)
    said = [json.loads(path.read_text(encoding="utf-8"))["codes"] for path in sorted(args.prompts.glob("*.json"))]
    codes = np.concatenate(said)[None].astype(np.int64)
    with tempfile.TemporaryDirectory() as name:
        graphs = make_graphs(codec, Path(name))
        print(", ".join(f"{kind} {path.stat().st_size / 1e6:.2f} MB" for kind, path in graphs.items()))
        decoders = {kind: Decoder(path, codec_spec(codec), args.threads) for kind, path in graphs.items()}
    audio = {kind: decoder.audio(codes) for kind, decoder in decoders.items()}
    for name in FORMATS[1:]:
        noise = np.square(audio[name] - audio["fp32"]).mean() / np.square(audio["fp32"]).mean()
        print(f"what {name} adds lies {-10 * np.log10(max(noise, 1e-20)):.1f} dB below the audio")
    return 0 if report(measure(decoders, codes, args.rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
