"""What speaks in `benchmarks/patch.py`, and, alone in a process without torch, the peak of its memory.

python -m benchmarks.patch_source BUNDLE DRAWS PATCHES
"""

import sys
from dataclasses import replace
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


def speak_alone(folder: Path, draws: int, patches: int) -> int:
    """Peak bytes of this process, whose runs draw so many tokens."""
    source, _ = open_source(folder, FirstTokens if draws == 1 else PatchSource)
    source.begin(Utterance(PREFIX, SAMPLING, 0, 10**6, 10**6))
    for _ in range(patches - 1):
        source.step()
    return read_memory().peak


if __name__ == "__main__":
    print(speak_alone(Path(sys.argv[1]), *map(int, sys.argv[2:])))
