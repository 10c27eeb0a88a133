"""The loop over a patch voice's graph: what torch says, one run for each patch, and why an utterance ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.patch_source import Counted

from sottovoce.errors import OptionError, TextError
from sottovoce.export.patch_graph import PatchOptions, export_patches
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.stream import PatchStream
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import Bundle, load_bundle
from sottovoce.runtime.contract import check_decoder, check_supported, token_ids
from sottovoce.runtime.manifest import Prompt, SamplingSpec
from sottovoce.runtime.patch_decode import PatchSource
from sottovoce.runtime.patch_prefix import cut_prefix
from sottovoce.runtime.prefix import build_prefix, prefix_slots, text_room
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.session import open_session
from sottovoce.runtime.speak import speak
from sottovoce.runtime.utterance import Generation, Utterance
from tests.models.patches import PROMPT, row, tiny_patches
from tests.runtime.fakes import GARBAGE
from tests.tiny import MARKS

EVERY_RULE = SamplingSpec(
    temperature=0.9, top_k=30, top_p=0.95, repetition_penalty=1.2, repetition_window=9, ras_window=10, ras_tau=0.2
)
FREE = 10**6
"""A least length that no test reaches: no stop is drawn."""


@pytest.fixture(scope="module")
def bundle(patch_bundle: Path) -> Bundle:
    return load_bundle(patch_bundle, threads=1)


@pytest.fixture(scope="module")
def patches(patch_voice: Path) -> PatchDecoder:
    return Voice.open(patch_voice).patches().load()


def open_source(bundle: Bundle, chunk: int = 64) -> tuple[PatchSource, Counted]:
    """A source whose slots hold garbage, and the graph that it runs."""
    counted: Any = Counted(bundle.decoder)
    assert bundle.manifest.patch is not None
    source = PatchSource(replace(bundle, decoder=counted), bundle.manifest.patch, chunk)
    for buffers in (*source.cache.arrays, *([source.compressor.buffers] if source.compressor else [])):
        buffers[:] = GARBAGE
    return source, counted


def by_torch(patches: PatchDecoder, bundle: Bundle, utterance: Utterance) -> tuple[list[int], bool]:
    """The same tokens by the reference and the runtime's sampler, and whether a stop ended them."""
    stop = bundle.voice.prompt.stop
    sampler = Sampler(utterance.sampling, bundle.token_ids, stop, utterance.seed, utterance.min_tokens)
    stream = PatchStream(patches, bundle.manifest.cache.groups[0].prefix, bundle.manifest.cache.groups[0].window)
    stream.prefill(utterance.prefix)
    said = list(stream.patch(sampler.draw))
    while len(said) < utterance.max_tokens and not stream.ended:
        said += stream.patch(sampler.draw)
    return said[: utterance.max_tokens], stream.ended and len(said) < utterance.max_tokens


@pytest.mark.parametrize(("chunk", "reach"), [(1000, 64), (5, 3)])
def test_it_says_what_torch_says(
    bundle: Bundle, patches: PatchDecoder, chunk: int, reach: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone's ring goes round three times, the compressor's six; one run for each patch, of each utterance."""
    monkeypatch.setattr("sottovoce.runtime.cache.REACH", reach)
    source, counted = open_source(bundle, chunk)
    for name, seed in (("ada", 1), ("bob", 2)):
        prefix = build_prefix(bundle, (60, 61, 62, 63, 64), find_prompt(bundle, name))
        utterance = Utterance(prefix, EVERY_RULE, seed, FREE, 90)
        counted.runs = 0
        generation = Generation(source, utterance)
        assert list(generation) == by_torch(patches, bundle, utterance)[0]
        pieces = len(cut_prefix(prefix, range(48), 4, chunk))
        assert pieces == 1 + -(-(prefix_slots(bundle.manifest, prefix) - 7) // chunk) + 6 // chunk
        assert counted.runs == pieces + len(generation.step_seconds) == pieces + 22
        assert generation.stopped == "max length" and len(generation.tokens) == 90


@pytest.mark.parametrize(
    ("size", "compressor", "speaker", "name"),
    [
        (4, "mean", "pooled", "qwen3_head_dim"),
        (3, "attention", "none", "llama_mha_biases"),
        (2, "mean", "none", "gpt2_tied"),
    ],
)
def test_other_nets_and_backbones(tmp_path: Path, bundle: Bundle, size: int, compressor, speaker, name: str) -> None:
    """Without a compressor's cache, without a speaker; with learned positions; a prefix in pieces."""
    patches = tiny_patches(size, compressor, speaker, name)
    parts = export_patches(patches, PROMPT, PatchOptions("fp32", 24, 5, 9, 80), tmp_path)
    same = {field: getattr(parts, field) for field in ("cache", "io", "head", "max_position", "patch")}
    session = open_session(tmp_path / "decoder.onnx", 1)
    manifest = replace(bundle.manifest, prompt=PROMPT, max_new_tokens=None, **same)
    check_supported(manifest)
    check_decoder(manifest, session)
    ids = token_ids(parts.head)
    other = replace(
        bundle, manifest=manifest, decoder=session, token_ids=ids, speaking=replace(bundle.voice, prompt=PROMPT)
    )
    source, _ = open_source(other, 3)
    assert source.nbytes == parts.cache.bytes
    for clip in (7, 0):
        tokens, count = row(4, clip, 0)
        utterance = Utterance(tuple(tokens[:count]), EVERY_RULE, clip, FREE, 50)
        assert list(Generation(source, utterance)) == by_torch(patches, other, utterance)[0]


def test_a_stop_inside_a_patch_ends_it_there(bundle: Bundle, patches: PatchDecoder) -> None:
    """At several places of a patch; all utterances over the same buffers."""
    source, counted = open_source(bundle)
    places, prefix = set(), build_prefix(bundle, (60, 61, 62), find_prompt(bundle, "ada"))
    for seed in range(40):
        utterance = Utterance(prefix, replace(EVERY_RULE, temperature=2.0, top_k=0, top_p=1.0), seed, seed % 9, 60)
        said, ended = by_torch(patches, bundle, utterance)
        counted.runs, generation = 0, Generation(source, utterance)
        assert list(generation) == said
        assert generation.stopped == ("stop token" if ended else "max length")
        assert counted.runs == 2 + len(generation.step_seconds)
        if ended:
            assert len(said) >= seed % 9
            places.add(len(said) % 4)
        if len(places) == 3:
            return
    pytest.fail(f"stops were drawn at {places} alone")


class Patches:
    """A source of what it was given."""

    size, max_position, position, nbytes = 2, 9, 0, 0

    def __init__(self, *patches: list[int]) -> None:
        self.patches = list(patches)

    def begin(self, utterance: Utterance) -> list[int]:
        return self.step()

    def step(self) -> list[int]:
        return self.patches.pop(0)


@pytest.mark.parametrize(
    ("patches", "said", "stopped"),
    [
        ([[]], [], "stop token"),
        ([[1]], [1], "stop token"),
        ([[1, 2], []], [1, 2], "stop token"),
        ([[1, 2], [3, 4]], [1, 2, 3], "max length"),
        ([[1, 2], [3]], [1, 2, 3], "max length"),
    ],
)
def test_where_a_stop_may_stand(patches: list[list[int]], said: list[int], stopped: str) -> None:
    """The first of a patch, or the last; an utterance that is long enough ends without."""
    generation = Generation(Patches(*patches), Utterance((60,), EVERY_RULE, 0, 0, 3))
    assert list(generation) == generation.tokens == said and generation.stopped == stopped


def test_it_ends_where_positions_do(bundle: Bundle) -> None:
    source, _ = open_source(bundle)
    prefix = build_prefix(bundle, (60, 61), Prompt((1, 2, 3), "i"))
    assert prefix_slots(bundle.manifest, prefix) == len(prefix) - 2
    source.max_position = len(prefix) + 8
    generation = Generation(source, Utterance(prefix, EVERY_RULE, 0, FREE, 90))
    # Two patches can be read, each where its last token stands, and a third said.
    assert len(list(generation)) == 4 * 3 and generation.stopped == "max position"
    with pytest.raises(TextError, match=f"position {len(prefix) + 11} is past the graph's last one, {len(prefix) + 7}"):
        source.step()


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ((), "the prefix is empty"),
        ((60,) * 61, "need 61 prefix slots and this bundle holds 60"),
        ((60, *range(41)), "longer than the 40 codes"),
    ],
)
def test_prefixes_that_do_not_fit(bundle: Bundle, prefix: tuple[int, ...], says: str) -> None:
    source, counted = open_source(bundle)
    with pytest.raises(TextError, match=says):
        source.begin(Utterance(prefix, EVERY_RULE, 0, 0, 9))
    source.max_position = 5
    with pytest.raises(TextError, match="position 5 is past" if prefix else says):
        source.begin(Utterance(prefix[:6], EVERY_RULE, 0, 0, 9))
    assert counted.runs == 0


def test_room_is_counted_in_patches(bundle: Bundle) -> None:
    """20 codes of a clip take 5 of the 60 slots."""
    prompt = find_prompt(bundle, "ada")
    assert len(prompt.codes) == 20
    taken = len(build_prefix(bundle, (), prompt)) - 20 + 5
    assert text_room(bundle, prompt) == 60 - taken


def test_bad_chunk(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="--prefill-chunk 0"):
        open_source(bundle, 0)


def test_caches_are_the_manifests(bundle: Bundle) -> None:
    source, _ = open_source(bundle)
    assert source.nbytes == bundle.manifest.cache.bytes
    speech = speak(bundle, "Hello there.", find_prompt(bundle, "ada"))
    assert speech.whole().size
    (sentence,) = speech.stats().sentences
    assert speech.stats().cache_bytes == bundle.manifest.cache.bytes
    assert len(sentence.step_seconds) == -(-(len(sentence.codes) + (sentence.stopped == "stop token")) // 4) - 1


def test_a_prefix_is_cut_anywhere() -> None:
    """Words 60.., codes 0..47: the pieces say what the whole says, in its order."""
    prefix = (60, 61, *range(9), 62, MARKS[0])
    text, whole = cut_prefix(prefix, range(48), 4, 100)
    assert (text.text, text.source, text.positions) == ((60, 61), (0, 1), (0, 1))
    assert whole.text == (62, MARKS[0]) and whole.source == (2, 3, 4, 0, 1)
    assert whole.patches.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, -1, -1, -1]]
    assert whole.positions == (5, 9, 10, 11, 12)
    pieces = cut_prefix(prefix, range(48), 4, 2)
    assert [(p.text, len(p.patches), p.first, p.source) for p in pieces] == [
        ((60, 61), 0, 0, (0, 1)),
        ((), 2, 0, (1, 2)),
        ((62,), 1, 2, (1, 0)),
        ((MARKS[0],), 0, 3, (0,)),
    ]
    assert pieces[1].patches.tolist() == whole.patches[:2].tolist()
    assert [p.positions for p in pieces] == [(0, 1), (5, 9), (10, 11), (12,)]


def test_a_clip_that_comes_first() -> None:
    """The first patch alone is read at its last code's position; the second waits for the next run."""
    pieces = cut_prefix((*range(6), 60), range(48), 4, 100)
    assert [(p.source, p.positions) for p in pieces] == [((1,), (3,)), ((1, 0), (5, 6))]
