"""Philox4x32-10 against the known answers of Random123, and the shape of what the contract makes of it."""

import numpy as np
import pytest

from sottovoce.errors import OptionError
from sottovoce.runtime.philox import MAX_SEED, checked_seed, philox, uniform, uniforms

ONES = 0xFFFFFFFF


# kat_vectors of Random123, the authors' own implementation: counter, key, words.
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, words):
    assert philox(key, counter) == words


def test_uniform_is_exact_in_float32():
    assert uniform(0) == 0.0
    assert uniform(ONES) == 1 - 2**-24 == float(np.float32(uniform(ONES)))


def test_key_is_the_seed_and_counter_the_token():
    seed, token = (7 << 32) + 5, (3 << 32) + 2
    words = philox((5, 7), (2, 3, 0, 0))
    assert uniforms(seed, token) == (uniform(words[0]), uniform(words[1]))


def test_draws_are_even():
    draws = np.array([uniforms(11, t)[0] for t in range(4000)])
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert abs(counts - 400).max() < 80


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_outside_64_bits(seed):
    with pytest.raises(OptionError, match=f"--seed {seed}"):
        checked_seed(seed)
