"""What speaks in `benchmarks/patch.py`, in processes without torch, as a user's is.

python -m benchmarks.patch_source turns PLAIN PATCHED TOKENS RUNS     seconds per token of both, in turns, as JSON
python -m benchmarks.patch_source peak BUNDLE DRAWS PATCHES           peak bytes of a process that does nothing else
"""

import json
import sys
import time
from collections.abc import Sequence
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


def open_source(folder: Path, kind: type[PatchSource] = PatchSource, threads: int = 1) -> tuple[Source, "Counted"]:
    """What speaks, and its graph counted; a patched one is of `kind`."""
    opened = load_bundle(folder, threads=threads, verify_hashes=False)
    counted = Counted(opened.decoder)
    voice: Any = bundle.Voice(PROMPT, SAMPLING, *[None] * 3)  # type: ignore[arg-type]
    graph: Any = counted
    opened = replace(opened, decoder=graph, speaking=voice)
    patch = opened.manifest.patch
    return (TokenSource(opened) if patch is None else kind(opened, patch)), counted


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
    """Seconds per token, [runs] of each bundle; runs of the graph for each step of the last."""

    seconds: list[list[float]]
    calls: float


def take_turns(folders: Sequence[Path], tokens: int, runs: int) -> Turns:
    """In each run an utterance of `tokens` by all `folders`, in turns: as many steps of each as make a patch of the
    last one."""
    opened = [open_source(folder) for folder in folders]
    seconds: list[list[float]] = [[] for _ in opened]
    patched, counted = opened[-1]
    rounds, calls = tokens // patched.size - 1, 0
    for run in range(runs):
        for source, _ in opened:
            source.begin(Utterance(PREFIX, SAMPLING, run, tokens + patched.size, tokens))
        spent, before = [0.0] * len(opened), counted.runs
        for _ in range(rounds):
            for number, (source, _) in enumerate(opened):
                start = time.perf_counter()
                for _ in range(patched.size // source.size):
                    source.step()
                spent[number] += time.perf_counter() - start
        calls += counted.runs - before
        for total, row in zip(spent, seconds, strict=True):
            row.append(total / (rounds * patched.size))
    return Turns(seconds, calls / (rounds * runs))


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
        print(json.dumps(asdict(take_turns([Path(path) for path in arguments[:2]], *map(int, arguments[2:])))))
