"""The conditioning prefix: the voice's layout filled with text ids and a speaker prompt, and its room for text."""

from collections.abc import Sequence

from sottovoce.errors import PromptError
from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.manifest import Manifest, Prompt, PromptSpec


def build_prefix(bundle: Bundle, text: Sequence[int], prompt: Prompt) -> tuple[int, ...]:
    """Token ids of the prefix for `text` ids spoken by `prompt`.

    Raises PromptError where the layout asks for the clip's codes or words and `prompt` has none.
    """
    spec = bundle.voice.prompt
    words = _transcript_ids(bundle, prompt) if "{prompt_text}" in spec.layout else ()
    if "{prompt_codes}" in spec.layout and not prompt.codes:
        raise PromptError("this voice needs a clip of the speaker (--prompt)")
    return fill_layout(spec, text, prompt.codes, words)


def fill_layout(
    spec: PromptSpec, text: Sequence[int], prompt_codes: Sequence[int], prompt_text: Sequence[int]
) -> tuple[int, ...]:
    """Token ids of `spec`'s layout, its fields replaced by text ids, the clip's codes and the ids of the clip's words.

    Training fills its prefixes here too, so that a voice learns what the runtime will show it.
    """
    ids: list[int] = []
    for item in spec.layout:
        if isinstance(item, int):
            ids.append(item)
        elif item == "{text}":
            ids += text
        elif item == "{prompt_codes}":
            ids += (spec.code_offset + code for code in prompt_codes)
        else:
            ids += prompt_text
    return tuple(ids)


def prefix_slots(manifest: Manifest, ids: Sequence[int]) -> int:
    """Slots that the prefix `ids` takes: one per token, one per patch for the clip's codes."""
    if manifest.patch is None or manifest.prompt is None:
        return len(ids)
    start, size = manifest.prompt.code_offset, manifest.patch.size
    codes = sum(start <= token < start + manifest.prompt.code_count for token in ids)
    return len(ids) - codes + -(-codes // size)


def _transcript_ids(bundle: Bundle, prompt: Prompt) -> tuple[int, ...]:
    """Text ids of the clip's words."""
    if not prompt.transcript:
        raise PromptError("this voice needs the words of the clip (--prompt-text)")
    return bundle.voice.frontend.whole(prompt.transcript).ids


def text_room(bundle: Bundle, prompt: Prompt) -> int:
    """Text tokens one sentence may have beside `prompt`; raises PromptError where it leaves no room."""
    spec, slots = bundle.voice.prompt, bundle.manifest.cache.groups[0].prefix
    alone = build_prefix(bundle, (), prompt)
    fixed = prefix_slots(bundle.manifest, alone)
    room = min(slots - fixed, bundle.manifest.max_position - len(alone))
    if room < 1:
        codec = bundle.voice.codec
        size = bundle.manifest.patch.size if bundle.manifest.patch else 1
        slot = size * codec.hop / codec.sample_rate  # seconds of the clip in one slot
        allowed = max(0, -(-len(prompt.codes) // size) + room - 1) * slot
        raise PromptError(
            f"the prompt needs {fixed} prefix slots and this bundle holds {slots}: cut the clip to at most "
            f"{allowed:.2f} s, less {slot:.2f} s for each text token of a sentence after the first, "
            f"or export with --prefix {fixed + spec.max_text_tokens}"
        )
    return min(room, spec.max_text_tokens)
