"""Sampling against a slow reference written from the contract's words, and each rule alone."""

from dataclasses import replace

import numpy as np
import pytest

from sottovoce.errors import OptionError
from sottovoce.runtime import sampling as module
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.philox import uniforms
from sottovoce.runtime.sampling import BLOCKS, Sampler, check_sampling, descending, draw, penalised, shortlist

IDS = np.arange(100, 140, dtype=np.int64)
STOP = (139,)


def logits(seed=0, count=40):
    return np.random.default_rng(seed).normal(0, 2, count).astype(np.float32)


def sampler(seed=0, min_tokens=0, **spec):
    return Sampler(SamplingSpec(**spec), IDS, STOP, seed, min_tokens)


def reference(scores, u, top_k, top_p):
    """One draw, item by item in Python over the same float32 values."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    order = order[:top_k] if top_k else order
    weights = np.exp(np.array([scores[i] - scores[order[0]] for i in order], np.float32))
    summed = weights if len(order) < len(scores) else np.exp(scores - scores.max())
    p = weights / summed.sum()
    kept, total = 0, np.float32(0)
    while kept < len(order) and (kept == 0 or total < np.float32(top_p)):
        total += p[kept]
        kept += 1
    p = p[:kept] / p[:kept].sum()
    cdf = np.float32(0)
    for i, share in zip(order, p, strict=False):
        cdf += share
        if u < cdf:
            return i
    return order[kept - 1]


@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 99])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_draw_matches_the_contract(top_k, top_p):
    for seed in range(40):
        scores, u = logits(seed), uniforms(seed, 3)[0]
        assert draw(scores, u, top_k, top_p) == reference(scores, u, top_k, top_p if top_p < 1 else 2.0)


@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.5])
@pytest.mark.parametrize("top_k", [0, 50])
@pytest.mark.parametrize("size", [5000, 9001])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_draws_from_many_logits_match_the_contract(spread, size, top_k, top_p):
    """Flat ones, of which all must be sorted, and steep ones, with ties; a tenth hidden, the largest in one column."""
    for seed in range(5):
        scores, u = (logits(seed, size) * np.float32(spread)).round(2), uniforms(seed, 3)[0]
        scores[::10] = -np.inf
        scores[[4, 4 + BLOCKS]] = 9
        assert draw(scores, u, top_k, top_p) == reference(scores, u, top_k, top_p if top_p < 1 else 2.0)


def test_selecting_looks_at_the_largest_of_each_block(monkeypatch):
    counts = []
    whole = np.partition

    def watched(values, place):
        counts.append(len(values))
        return whole(values, place)

    monkeypatch.setattr(module.np, "partition", watched)
    descending(logits(0, 65_536), 50)
    assert counts == [BLOCKS]


def test_numbers_that_are_none_stop_no_draw():
    scores = logits(0, 65_536)
    scores[:300] = np.nan
    assert 0 <= draw(scores, 0.5, 50) < len(scores)
    assert 0 <= draw(scores, 0.5) < len(scores)


def test_a_draw_sorts_no_more_than_it_needs(monkeypatch):
    sorted_counts = []
    whole = np.sort

    def watched(values):
        sorted_counts.append(len(values))
        return whole(values)

    monkeypatch.setattr(module.np, "sort", watched)
    scores = logits(0, 65_536) * np.float32(8)
    draw(scores, 0.5, 0, 0.9)
    draw(scores, 0.5)
    assert sorted_counts == [256, 256]
    draw(np.zeros(65_536, np.float32), 0.5)
    assert sorted_counts[2:] == [256, 4096, 65_536]


@pytest.mark.parametrize("count", [1, 50, 511, 512, 513, 9000])
@pytest.mark.parametrize("size", [9001, 3 * 4096, 65_536])
@pytest.mark.parametrize("places", [1, 9])
def test_the_shortlist_holds_the_largest_and_few_others(count, size, places):
    scores = logits(count, size).round(places)  # with ties, and nearly without
    chosen = shortlist(scores, count)
    assert sorted(chosen.tolist()) == chosen.tolist()
    least = np.sort(scores)[-count]
    assert set(np.flatnonzero(scores >= least)) <= set(chosen)
    if places == 9:
        assert len(chosen) <= count + 0.2 * count + 10
    assert descending(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()


@pytest.mark.parametrize("top_k", [0, 3])
def test_ties_go_to_the_lower_index(top_k):
    scores = np.array([1, 3, 3, 3, 3, 0], np.float32)
    assert descending(scores, top_k).tolist() == ([1, 2, 3] if top_k else [1, 2, 3, 4, 0, 5])


def test_the_ends_of_the_unit_interval():
    scores = logits()
    order = descending(scores)
    assert draw(scores, 0.0) == order[0]
    assert draw(scores, 1 - 2**-24, top_k=4) == order[3]
    hidden = np.array([0, -np.inf, -np.inf], np.float32)
    assert draw(hidden, 1 - 2**-24) == 0


def test_frequencies_follow_the_probabilities():
    scores = np.array([0, 1, 2], np.float32)
    draws = [draw(scores, uniforms(5, t)[0]) for t in range(4000)]
    expected = np.exp(scores) / np.exp(scores).sum()
    assert np.abs(np.bincount(draws) / 4000 - expected).max() < 0.03


def test_greedy_takes_the_lowest_of_equals():
    scores = np.zeros(40, np.float32)
    scores[[7, 9]] = 1
    assert sampler(temperature=0).draw(scores) == 107


def test_temperature_sharpens():
    scores = logits(1)
    best = 100 + int(scores.argmax())
    cold = [sampler(seed, temperature=0.05).draw(scores) for seed in range(50)]
    hot = [sampler(seed, temperature=5.0).draw(scores) for seed in range(50)]
    assert cold.count(best) > 45 > hot.count(best)


def test_penalty_is_that_of_hugging_face():
    scores = np.array([2, -2, 2, -2], np.float32)
    assert penalised(scores, [0, 1, 1], 4.0).tolist() == [0.5, -8, 2, -2]
    assert scores.tolist() == [2, -2, 2, -2]


def test_penalty_sees_only_its_window():
    scores = np.zeros(40, np.float32)
    scores[:3] = [3, 2, 1]
    greedy = sampler(temperature=0, repetition_penalty=10.0, repetition_window=2)
    assert [greedy.draw(scores) for _ in range(4)] == [100, 101, 102, 100]
    with pytest.raises(OptionError, match="--repetition-window"):
        sampler(temperature=0, repetition_penalty=10.0)


def test_stop_ids_wait_for_the_minimum():
    scores = np.zeros(40, np.float32)
    scores[39] = 50
    strict = sampler(temperature=0, min_tokens=2)
    assert [strict.draw(scores) for _ in range(3)] == [100, 100, None]


def test_repetition_aware_redraw_uses_the_second_word_and_no_truncation():
    scores = logits(3)
    plain = sampler(9, top_k=1)
    aware = sampler(9, top_k=1, ras_window=10, ras_tau=0.1)
    best = plain.draw(scores)
    assert aware.draw(scores) == best
    for t in range(1, 20):
        index = draw(scores, uniforms(9, t)[1])
        recent = aware.drawn[-10:]
        wanted = 100 + index if recent.count(best - 100) >= 1 else best
        assert aware.draw(scores) == (None if wanted == 139 else wanted)
    assert len(set(aware.drawn)) > 1


def test_same_seed_same_tokens():
    def spoken(seed):
        drawer = sampler(seed, temperature=1.0)
        return [drawer.draw(logits(t)) for t in range(20)]

    assert spoken(4) == spoken(4) != spoken(5)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": 1e-40}, {"temperature": 1e300},
        {"ras_tau": float("nan")}, {"ras_tau": -0.1}, {"ras_tau": 0.0}, {"max_ratio": 1e300}, {"top_p": float("nan")},
        {"repetition_window": 1 << 70}, {"repetition_penalty": 1e-46, "repetition_window": 1},
        {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1},
        {"repetition_penalty": 0.0}, {"min_ratio": 3.0, "max_ratio": 2.0}, {"ras_window": -1}, {"max_extra": -1},
    ],
)  # fmt: skip
def test_senseless_values_are_named(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        check_sampling(replace(SamplingSpec(), **bad))


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_the_ends_of_the_temperature_are_numbers(temperature):
    scores = logits(2) * np.float32(1e3)
    scores[5] = -np.inf
    assert sampler(temperature=temperature, min_tokens=1).draw(scores) is not None
