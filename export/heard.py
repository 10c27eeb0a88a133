"""What a voice is heard saying where something is measured on its own speech: presets, sentences, their codes."""

from collections.abc import Iterator, Mapping

import numpy as np

from sottovoce.export.cache_scales import Utterance
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import Prompt, PromptSpec
from sottovoce.runtime.prefix import fill_layout
from sottovoce.runtime.text.frontend import Frontend, load_frontend

SENTENCES = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. "
    "It's easy to tell the depth of a well. Four hours of steady work faced us."
)
"""Four of the Harvard sentences (IEEE 1969)."""


def speakers(presets: Mapping[str, Prompt], spec: PromptSpec, slots: int) -> dict[str, Prompt]:
    """The presets by name; for a voice that comes without any, one with random codes in a quarter of the prefix."""
    if presets:
        return dict(presets)
    count = max(1, min(spec.max_prompt_codes, slots // 4))
    codes = np.random.default_rng(0).integers(0, spec.code_count, count).tolist()
    return {"nobody": Prompt(tuple(codes), "Yes.")}


def heard(voice: Voice, slots: int) -> tuple[Utterance, ...]:
    """Each speaker's prefixes of at most `slots` tokens: the words of its clip, and SENTENCES; its codes after each.

    The clip's own words with its own codes are real speech, known without a sample drawn. Raises BundleError or
    TextError where the text front end cannot be used.
    """
    spec = voice.complete()
    frontend = load_frontend(voice.home, spec.text)
    found = speakers(voice.prompts(), spec.prompt, slots).values()
    return tuple(utterance for prompt in found for utterance in _of(prompt, spec.prompt, frontend, slots))


def _of(prompt: Prompt, spec: PromptSpec, frontend: Frontend, slots: int) -> Iterator[Utterance]:
    """One speaker's utterances, those left out that do not fit."""
    words = frontend.whole(prompt.transcript).ids if prompt.transcript else ()
    room = slots - len(fill_layout(spec, (), prompt.codes, words))
    texts = [words] if 0 < len(words) <= room else []
    texts += [sentence.ids for sentence in frontend.sentences(SENTENCES, room)] if room > 0 else []
    codes = tuple(spec.code_offset + code for code in prompt.codes)
    for text in texts:
        yield fill_layout(spec, text, prompt.codes, words), codes
