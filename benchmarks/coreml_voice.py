"""The windowed reference voice in Core ML, interpreted, beside its ONNX fp32 bundle: the same words, greedily.

    python -m benchmarks.coreml_voice                           20 sentences, whole; hours of a busy machine's core
    python -m benchmarks.coreml_voice --sentences 20 --tokens 12
    python -m benchmarks.coreml_voice --core BUNDLE --onnx BUNDLE --wav out    bundles made before; sound too

Each bundle chooses its own tokens. Prints a line per sentence with the first token on which they differ, and how far
apart ONNX's two best logits were there. No gate: which of two near equals is chosen is anybody's choice.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sottovoce.compress.evaluate.sentences import SENTENCES
from sottovoce.export.assemble import export_bundle
from sottovoce.export.coreml.assemble import export_coreml
from sottovoce.export.coreml.interpreted import InterpretedEngine
from sottovoce.export.coreml.plan import CoreRequest
from sottovoce.export.plan import Request
from sottovoce.runtime.bundle import Bundle, load_bundle
from sottovoce.runtime.coreml import CoremlCodec, CoremlDecoder, CoremlStream
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.manifest import read_manifest
from sottovoce.runtime.output import write_wav
from sottovoce.runtime.prefix import build_prefix, text_room
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import token_limits

VOICE = Path("voices/reference-w64")


class AnyStream(Protocol):
    """What both kinds of stream have."""

    def prefill(self, ids: Any) -> np.ndarray:
        """Logits of the first token."""
        ...

    def step(self, token: int) -> np.ndarray:
        """Logits of the next one."""
        ...


@dataclass(frozen=True)
class Said:
    """Greedy tokens, and the margin of the best logit over the second at each."""

    tokens: list[int]
    margins: list[float]


def greedy(stream: AnyStream, bundle: Bundle, prefix: tuple[int, ...], longest: int) -> Said:
    """The likeliest token again and again, until a stop id or `longest` tokens."""
    logits = stream.prefill(prefix)
    tokens: list[int] = []
    margins: list[float] = []
    while len(tokens) < longest:
        best, second = np.sort(logits)[-1], np.sort(logits)[-2]
        token = int(bundle.token_ids[int(np.argmax(logits))])
        if token in bundle.voice.prompt.stop:
            break
        tokens.append(token)
        margins.append(float(best - second))
        logits = stream.step(token)
    return Said(tokens, margins)


def compare(core: Path, onnx: Path, count: int, cap: int | None, wav: Path | None) -> None:
    """Print a line per sentence, then how many were equal and over how many tokens."""
    bundle, manifest = load_bundle(onnx, threads=1), read_manifest(core)
    streams = (Stream(bundle), CoremlStream(CoremlDecoder(core, manifest, InterpretedEngine), manifest))
    prompt, equal, agreed, total = find_prompt(bundle, None), 0, 0, 0
    for number, text in enumerate(SENTENCES[:count], 1):
        (sentence, *_) = bundle.voice.frontend.sentences(text, text_room(bundle, prompt))
        prefix = build_prefix(bundle, sentence.ids, prompt)
        longest = token_limits(bundle.manifest, bundle.voice.sampling, len(sentence.ids))[1]
        start = time.perf_counter()
        theirs, ours = (greedy(stream, bundle, prefix, min(longest, cap or longest)) for stream in streams)
        pairs = list(zip(theirs.tokens, ours.tokens, strict=False))
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        same = first is None and len(theirs.tokens) == len(ours.tokens)
        equal += same
        agreed += len(pairs) if first is None else first
        total += len(theirs.tokens)
        where = (
            "equal"
            if same
            else f"first differs at token {first}, where ONNX's margin is "
            + (f"{theirs.margins[first]:.3f}" if first is not None else "the end")
        )
        print(f"{number:3} {len(theirs.tokens):4} tokens, {time.perf_counter() - start:5.0f} s: {where}", flush=True)
        if wav is not None:
            _write(wav / f"{number}.wav", ours.tokens, bundle, core)
    print(f"{equal} of {min(count, len(SENTENCES))} sentences equal; {agreed} of {total} tokens before a difference")


def _write(path: Path, tokens: list[int], bundle: Bundle, core: Path) -> None:
    """What the Core ML bundle said, through its own codec."""
    manifest = read_manifest(core)
    assert manifest.codec is not None
    assert manifest.coreml is not None
    codec, spec = CoremlCodec(core, manifest.codec, manifest.coreml, InterpretedEngine), manifest.codec
    codes = [token - bundle.voice.prompt.code_offset for token in tokens] + [spec.flush_code] * spec.flush_codes
    states = {state.name: np.zeros(state.shape, np.float32) for state in spec.states}
    audio = codec.run(None, {"codes": np.array([codes], np.int64), **states})[0][0, spec.delay :]
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        write_wav(file, [audio], spec.sample_rate)


def main() -> int:
    """Make the bundles that are not given, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--core", type=Path, help="Core ML bundle (default: made of voices/reference-w64, fp16)")
    parser.add_argument("--onnx", type=Path, help="ONNX bundle (default: made of voices/reference-w64, fp32)")
    parser.add_argument("--sentences", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, help="at most this many per sentence (default: all)")
    parser.add_argument("--wav", type=Path, help="folder for what the Core ML bundle said")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.core is None:
            export_coreml(VOICE, folder / "core", CoreRequest("fp16"))
        if args.onnx is None:
            export_bundle(VOICE, folder / "onnx", Request(weights="fp32"))
        core, onnx = args.core or folder / "core", args.onnx or folder / "onnx"
        compare(core, onnx, args.sentences, args.tokens, args.wav)
    return 0


if __name__ == "__main__":
    sys.exit(main())
