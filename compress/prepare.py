"""What every distillation does before its first step: all processes make tokens of a corpus, and batches of them."""

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from sottovoce.compress.corpus.batches import Batches
from sottovoce.compress.corpus.layout import Corpus
from sottovoce.compress.corpus.tokens import Spoken, Tokeniser
from sottovoce.compress.metrics import PAUSE
from sottovoce.compress.recipe import BatchRecipe
from sottovoce.models.checkpoint import write_atomic
from sottovoce.models.voice import Voice

LEFT_OUT = "left_out.txt"
"""The list of utterances that are not learned from, in a run's folder."""


def prepare(
    corpus: Corpus,
    voice: Voice,
    recipe: BatchRecipe,
    accelerator: Accelerator,
    *,
    cache: Path,
    folder: Path,
    skip_bad: bool,
) -> Batches:
    """Batches of `corpus` for `voice`; its tokens are kept in `cache`, what is left out is listed in `folder`.

    Raises CorpusError where files cannot be used and `skip_bad` is not given, or nothing is left to learn from.
    """
    tokeniser = Tokeniser(voice, cache, str(accelerator.device))
    rank, world, first = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    share = len(corpus.utterances[rank::world])
    tokeniser.prepare(corpus, rank, world, _counter(share) if first else lambda _: None)
    accelerator.wait_for_everyone()
    tokens = tokeniser.load(corpus, skip_bad)
    batches = Batches(tokens.spoken, voice.complete(), recipe, voice.checkpoint.config.max_position)
    if first:
        _tell(folder, [*tokens.problems, *batches.left_out], len(batches.usable))
    return batches


def corpus_hash(spoken: Sequence[Spoken]) -> str:
    """Hash (hex) of what is learned from: names, speakers, texts and codes."""
    digest = hashlib.sha256()
    for row in spoken:
        digest.update(f"{row.id}\0{row.speaker}\0{len(row.text)}\0{len(row.codes)}\0".encode())
        digest.update(row.text.tobytes() + row.codes.tobytes())
    return digest.hexdigest()


def _counter(total: int) -> Callable[[int], None]:
    """A function that says now and then how many of `total` utterances are tokens."""
    told = time.monotonic()

    def tell(count: int) -> None:
        nonlocal told
        if time.monotonic() - told >= PAUSE:
            told = time.monotonic()
            print(f"tokenising: {count} of {total} utterances", file=sys.stderr, flush=True)

    return tell


def _tell(folder: Path, lines: Sequence[str], used: int) -> None:
    """Say how many utterances are learned from, and list the others in a file."""
    text = "".join(f"{line}\n" for line in lines)
    write_atomic(folder / LEFT_OUT, lambda path: path.write_text(text, encoding="utf-8"))
    others = f", {len(lines)} left out ({folder / LEFT_OUT})" if lines else ""
    print(f"{used} utterances{others}", file=sys.stderr, flush=True)
