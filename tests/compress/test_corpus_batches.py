"""Tokens → batches: prefixes as the runtime lays them out, the same rows whatever the number of processes."""

import dataclasses

import numpy as np
import pytest
import torch

from sottovoce.compress.corpus.batches import IGNORED, Batches
from sottovoce.compress.corpus.tokens import Spoken
from sottovoce.compress.recipe import BatchRecipe
from sottovoce.errors import CorpusError
from sottovoce.models.voice import VoiceSpec
from sottovoce.runtime.parse import parse
from tests.tiny import CODES, MARKS, STOP, TEXT_OFFSET, voice_section

START, MIDDLE, END = MARKS
CODES_ONLY = [START, "{text}", MIDDLE, "{prompt_codes}", END]


def spec(layout=None, prompt=None, **changes) -> VoiceSpec:
    section = voice_section(**changes)
    section["prompt"] |= (prompt or {}) | ({"layout": layout} if layout else {})
    return parse(VoiceSpec, section, "test")


def spoken(name, text=10, codes=30, speaker="ada") -> Spoken:
    """An utterance whose tokens its name decides."""
    rng = np.random.default_rng([ord(c) for c in name])
    ids = TEXT_OFFSET + rng.integers(0, 26, text)
    return Spoken(name, speaker, ids.astype(np.int32), rng.integers(0, CODES, codes).astype(np.int32))


def many(count=40):
    rng = np.random.default_rng(1)
    sizes = zip(rng.integers(3, 12, count).tolist(), rng.integers(14, 60, count).tolist(), strict=True)
    return [spoken(f"u{i}", text, codes, f"s{i % 3}") for i, (text, codes) in enumerate(sizes)]


def rows(batch):
    """Each row's tokens and targets without padding."""
    return [
        (ids[:n].tolist(), targets[:n].tolist())
        for ids, targets, n in zip(batch.ids, batch.targets, batch.lengths.tolist(), strict=True)
    ]


def test_a_row_is_the_runtimes_prefix_then_codes_that_are_learned_with_a_stop():
    one, other = spoken("a", 5, 7), spoken("b", 4, 30)
    batches = Batches([one, other], spec(), BatchRecipe(2000, 1))
    batch = batches.collate([0], 0)
    prefix = [START, *other.text, *one.text, MIDDLE, *other.codes, END]
    assert batch.ids[0].tolist() == [*prefix, *one.codes]
    assert batch.prefix.tolist() == [len(prefix)]
    assert batch.lengths.tolist() == [len(prefix) + 7]
    assert batch.targets[0].tolist() == [IGNORED] * (len(prefix) - 1) + [*one.codes, STOP]
    assert {t.dtype for t in (batch.ids, batch.targets, batch.prefix, batch.lengths)} == {torch.int64}


def test_codes_are_shifted_and_padding_teaches_nothing():
    shifted = spec(CODES_ONLY, {"code_offset": 3})
    batch = Batches([spoken("a", codes=5), spoken("b", codes=9)], shifted, BatchRecipe(2000, 1)).collate([0, 1], 0)
    (_, first), (_, second) = rows(batch)
    assert [t for t in first if t != IGNORED] == [*(spoken("a", codes=5).codes + 3), STOP]
    assert [t for t in second if t != IGNORED] == [*(spoken("b", codes=9).codes + 3), STOP]
    for targets, length in zip(batch.targets, batch.lengths.tolist(), strict=True):
        assert (targets[length:] == IGNORED).all()


def test_a_clip_is_a_stretch_of_another_utterance_of_the_speaker():
    utterances = [spoken("a", codes=40), spoken("b", codes=20), spoken("c", codes=45), spoken("z", speaker="bob")]
    utterances.append(spoken("y", speaker="bob"))
    batches = Batches(utterances, spec(CODES_ONLY, {"max_prompt_codes": 24}), BatchRecipe(2000, 1))
    seen, lengths, starts = set(), set(), set()
    for step in range(60):
        batch = batches.collate([0], step)
        clip = batch.ids[0, 12 : batch.prefix[0] - 1].numpy()
        lengths.add(len(clip))
        for other in utterances:
            place = other.codes.astype(np.int64).tobytes().find(clip.tobytes())
            if place >= 0:
                seen.add(other.id)
                starts.add(place // 8)
    assert seen == {"b", "c"}
    assert len(starts) > 8
    assert min(lengths) >= 7
    assert max(lengths) <= 24
    assert len(lengths) > 8


def test_the_clip_leaves_room_for_the_text():
    utterances = [spoken("a", text=30), spoken("b", text=38), spoken("c", text=45)]
    batches = Batches(utterances, spec(CODES_ONLY, prefix=60), BatchRecipe(2000, 1))
    for index in range(3):
        assert max(int(batches.collate([index], step).prefix[0]) for step in range(40)) <= 60
    words = Batches(utterances, spec(prefix=200), BatchRecipe(2000, 1))
    assert max(int(words.collate([2], step).prefix[0]) for step in range(40)) == 3 + 45 + 38 + 30
    assert words.spans[0] == 3 + 30 + (45 + 30) + 30


def test_every_utterance_comes_once_an_epoch_within_the_budget_and_by_length():
    batches = Batches(many(), spec(CODES_ONLY), BatchRecipe(700, 1))
    steps = batches.steps_per_epoch
    assert steps > 5
    drawn = [batches.global_batch(step) for step in range(steps)]
    assert sorted(i for batch in drawn for i in batch) == list(range(40))
    sizes = [batches.batch(step).ids.numel() for step in range(steps)]
    assert max(sizes) <= 700
    padding = np.mean([(batches.spans[b].max() - batches.spans[b]).mean() for b in drawn if len(b) > 1])
    assert padding < 8
    shortest = [int(batches.spans[b].min()) for b in drawn]
    assert shortest != sorted(shortest)
    later = [batches.global_batch(step) for step in range(steps, 2 * steps)]
    assert sorted(map(sorted, later)) != sorted(map(sorted, drawn))


@pytest.mark.parametrize("world", [2, 3, 50])
def test_processes_share_one_batch(world):
    """Rows of all shares are the rows that one process would see, and a share without rows teaches nothing."""
    whole, shared = (Batches(many(), spec(CODES_ONLY), BatchRecipe(900, 7)) for _ in range(2))
    for step in (0, 3, whole.steps_per_epoch + 2):
        shares = [shared.batch(step, rank, world) for rank in range(world)]
        learned = [row for share in shares for row in rows(share) if set(row[1]) != {IGNORED}]
        assert sorted(learned) == sorted(rows(whole.batch(step)))
        assert all(len(share.ids) for share in shares)


def test_a_batch_depends_on_seed_and_step_alone():
    def draw(seed, step):
        return rows(Batches(many(), spec(CODES_ONLY), BatchRecipe(900, seed)).batch(step))

    forward = Batches(many(), spec(CODES_ONLY), BatchRecipe(900, 1))
    walked = [rows(forward.batch(step)) for step in range(12)]
    assert draw(1, 11) == walked[11]
    assert draw(2, 11) != walked[11]
    epoch = forward.steps_per_epoch
    clips = [rows(forward.collate([5], step))[0][0] for step in (0, epoch)]
    assert clips[0] != clips[1]


def test_what_is_too_long_is_listed_and_left_out():
    utterances = [
        spoken("fine"),
        spoken("also"),
        spoken("endless", codes=91),
        spoken("wordy", text=61),
        spoken("alone", speaker="bob"),
    ]
    batches = Batches(utterances, spec(CODES_ONLY), BatchRecipe(2000, 1))
    assert batches.usable.tolist() == [0, 1]
    assert batches.left_out == (
        "endless: 91 codes, the voice's longest utterance has 90",
        "wordy: 61 text tokens, the voice takes 60",
        "alone: speaker 'bob' has no other utterance that fits beside it as its prompt",
    )
    assert sorted(i for step in range(batches.steps_per_epoch) for i in batches.global_batch(step)) == [0, 1]
    tight = Batches(
        [spoken("a", text=5), spoken("b", text=5), spoken("c", text=50)], spec(prefix=55), BatchRecipe(2000, 1)
    )
    assert "c: speaker 'ada' has no other" in tight.left_out[0]
    assert (
        "prefix of 40"
        in Batches(
            [*utterances[:2], spoken("c", text=50)], spec(prefix=40, layout=CODES_ONLY), BatchRecipe(2000, 1)
        ).left_out[0]
    )


def test_limits_of_the_decoder_and_of_a_batch():
    utterances = [spoken("a"), spoken("b"), spoken("c", codes=80)]
    assert "positions for 120" in Batches(utterances, spec(CODES_ONLY), BatchRecipe(2000, 1), 120).left_out[0]
    assert "a batch of the recipe holds 120" in Batches(utterances, spec(CODES_ONLY), BatchRecipe(120, 1)).left_out[0]
    with pytest.raises(CorpusError, match="no utterance of the corpus can be learned from: a: "):
        Batches(utterances, spec(CODES_ONLY), BatchRecipe(20, 1))


def test_a_layout_without_clips_needs_none():
    plain = spec([START, "{text}", END])
    batch = Batches([spoken("a", text=4, codes=3)], dataclasses.replace(plain, prefix=6), BatchRecipe(50, 1)).batch(0)
    assert batch.prefix.tolist() == [6]


def test_a_share_of_the_history_is_to_be_drawn_whatever_the_number_of_processes():
    plain, whole = (Batches(many(), spec(CODES_ONLY), BatchRecipe(900, 1, share)) for share in (0.0, 0.8))
    assert plain.batch(0).drift is None
    shares = []
    for step in range(8):
        batch, before = whole.batch(step), plain.batch(step)
        assert batch.ids.equal(before.ids) and batch.targets.equal(before.targets)
        followed = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None] - 1
        followed &= batch.targets != IGNORED
        assert (batch.drift[~followed] == -1).all() and ((batch.drift == -1) | (batch.drift >= 0)).all()
        shares += [float((row[some] >= 0).float().mean()) for row, some in zip(batch.drift, followed, strict=True)]
        parts = [whole.batch(step, rank, 2) for rank in range(2)]
        numbers = sorted(n for part in parts if (part.targets >= 0).any() for n in part.drift[part.drift >= 0].tolist())
        assert numbers == sorted(batch.drift[batch.drift >= 0].tolist())
    assert np.mean(shares) == pytest.approx(0.4, abs=0.06) and max(shares) < 0.95 and min(shares) < 0.15
