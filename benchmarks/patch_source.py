"""What speaks in `benchmarks/patch.py`, in processes without torch, as a user's is.

python -m benchmarks.patch_source turns PLAIN PATCHED TOKENS     seconds per patch of both, in turns, as JSON
python -m benchmarks.patch_source peak BUNDLE DRAWS PATCHES      peak bytes of a process that does nothing else
"""

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sottovoce.devices.memory import read_memory
from sottovoce.runtime import bundle
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import TokenSource
from sottovoce.runtime.manifest import PromptSpec, SamplingSpec
from sottovoce.runtime.patch_decode import PatchSource
from sottovoce.runtime.patch_sampling import GraphSampling
from sottovoce.runtime.utterance import Source, Utterance

CODES = 6561
PROMPT = PromptSpec(("{text}", "{prompt_codes}"), 0, CODES, (CODES, CODES + 1), 60, 75)
"""CosyVoice's codes, 25 a second, and two stops; a clip of three seconds."""

PREFIX = (*range(CODES + 2, CODES + 36), *range(75))
"""34 tokens of text, and the clip."""

SAMPLING = SamplingSpec(temperature=0.7, top_k=25, top_p=0.7)
"""The paper's."""


def open_counted(folder: Path, threads: int = 1) -> tuple[bundle.Bundle, "Counted"]:
    """A bundle that can speak with random weights, and its graph counted."""
    opened = load_bundle(folder, threads=threads, verify_hashes=False)
    counted = Counted(opened.decoder)
    voice: Any = bundle.Voice(PROMPT, SAMPLING, *[None] * 3)  # type: ignore[arg-type]
    graph: Any = counted
    return replace(opened, decoder=graph, speaking=voice), counted


def source_of(opened: bundle.Bundle, kind: type[PatchSource] = PatchSource) -> Source:
    """What speaks; a patched one is of `kind`."""
    patch = opened.manifest.patch
    return TokenSource(opened) if patch is None else kind(opened, patch)


def open_source(folder: Path, kind: type[PatchSource] = PatchSource, threads: int = 1) -> tuple[Source, "Counted"]:
    """Both at once."""
    opened, counted = open_counted(folder, threads)
    return source_of(opened, kind), counted


class FirstTokens(PatchSource):
    """Draws one token with a run, the first of each patch: what is read costs the same, what is said a k-th."""

    def _begin_sampling(self, utterance: Utterance) -> GraphSampling:
        """See `PatchSource`."""
        return GraphSampling(utterance, self._logits, 1)


class Counted:
    """A graph that counts its runs."""

    def __init__(self, session: Any) -> None:
        """Of `session`."""
        self.session, self.runs = session, 0

    def io_binding(self) -> Any:
        """See `Session`."""
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        """See `Session`."""
        self.runs += 1
        self.session.run_with_iobinding(binding)


@dataclass(frozen=True)
class Turns:
    """Seconds that a patch's tokens take without patches, that a patch takes, and a run that draws its first token
    alone; runs of the graph for each patch."""

    plain: float
    patched: float
    first: float
    calls: float


def take_turns(plain: Path, patched: Path, tokens: int) -> Turns:
    """An utterance of `tokens` by both, in turns, a patch's worth each; the medians.

    The first tokens are drawn by the same open graph: another copy of its weights has other luck with memory.
    """
    (single, _), (opened, counted) = open_source(plain), open_counted(patched)
    sources = single, source_of(opened), source_of(opened, FirstTokens)
    size = sources[1].size
    for source in sources:
        source.begin(Utterance(PREFIX, SAMPLING, 0, tokens + size, tokens))
    before, rounds = counted.runs, range(tokens // size - 1)
    rows = [[_timed(source, size // source.size) for source in sources] for _ in rounds]
    alone, patched_seconds, first = (statistics.median(row) for row in zip(*rows, strict=True))
    return Turns(alone, patched_seconds, first, (counted.runs - before) / len(rows) - 1)


def _timed(source: Source, steps: int) -> float:
    """Seconds of so many steps."""
    start = time.perf_counter()
    for _ in range(steps):
        source.step()
    return time.perf_counter() - start


def speak_alone(folder: Path, draws: int, patches: int) -> int:
    """Peak bytes of this process, whose runs draw so many tokens."""
    source, _ = open_source(folder, FirstTokens if draws == 1 else PatchSource)
    source.begin(Utterance(PREFIX, SAMPLING, 0, 10**6, 10**6))
    for _ in range(patches - 1):
        source.step()
    return read_memory().peak


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "peak":
        print(speak_alone(Path(arguments[0]), *map(int, arguments[1:])))
    else:
        print(json.dumps(asdict(take_turns(Path(arguments[0]), Path(arguments[1]), int(arguments[2])))))
