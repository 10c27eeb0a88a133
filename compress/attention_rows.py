"""Utterances to look at for a report on windows: of a corpus, or of what the voice itself says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sottovoce.compress.attention_mass import Row
from sottovoce.compress.corpus.batches import Batches
from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.corpus.tokens import Tokeniser
from sottovoce.compress.evaluate.sentences import SENTENCES
from sottovoce.compress.evaluate.torch_bundle import open_voice
from sottovoce.compress.recipe import BatchRecipe
from sottovoce.errors import OptionError
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.prompt import find_prompt, preset_names
from sottovoce.runtime.speak import speak

CONSIDERED = 50
"""Utterances of a corpus that are read to find the longest ones among them: reading all of it may take hours."""

_MEND = "name a corpus with --distill"


def corpus_rows(voice: Voice, corpus: Path, count: int, cache: Path, skip_bad: bool) -> list[Row]:
    """The `count` longest of the first CONSIDERED utterances of a corpus, laid out as in training.

    Raises CorpusError where files cannot be used (and `skip_bad` is not given) or nothing is left.
    """
    spec, found = voice.complete(), read_corpus(corpus)
    first = replace(found, utterances=found.utterances[:CONSIDERED])
    spoken = Tokeniser(voice, cache).load(first, skip_bad).spoken
    any_row = BatchRecipe(tokens=spec.prefix + spec.max_new_tokens + 1, seed=0)
    batches = Batches(spoken, spec, any_row, voice.checkpoint.config.max_position)
    longest = sorted(batches.usable.tolist(), key=lambda i: (-len(spoken[i].codes), i))[:count]
    made = [batches.collate([index], 0) for index in longest]
    return [Row(tuple(batch.ids[0].tolist()), int(batch.prefix[0])) for batch in made]


def spoken_rows(voice: Voice, count: int) -> list[Row]:
    """What the voice itself says for the `count` longest of the built-in sentences, its presets taking turns.

    Raises OptionError where it has no presets, or says nothing.
    """
    bundle = open_voice(voice, Codec.load(voice.codec_folder))
    names: Sequence[str | None] = preset_names(bundle) or [None]
    offset, rows = bundle.voice.prompt.code_offset, []
    if names[0] is None and "{prompt_codes}" in bundle.voice.prompt.layout:
        raise OptionError(f"{voice.folder} has no preset speaker to say something: {_MEND}")
    for number, text in enumerate(sorted(SENTENCES, key=len, reverse=True)[:count]):
        speech = speak(bundle, text, find_prompt(bundle, names[number % len(names)]), seed=number)
        speech.whole()
        for job, said in zip(speech.jobs, speech.stats().sentences, strict=True):
            prefix = job.utterance.prefix
            rows.append(Row((*prefix, *(offset + code for code in said.codes)), len(prefix)))
    rows = [row for row in rows if len(row.ids) > row.prefix]
    if not rows:
        raise OptionError(f"{voice.folder} says nothing, there is no attention to look at: {_MEND}")
    return rows
