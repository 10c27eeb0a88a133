"""Philox4x32-10 (Salmon et al., SC'11): the contract's random numbers, so that every runtime says the same tokens."""

from typing import Final

from sottovoce.errors import OptionError

ROUNDS: Final = 10
MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
WEYL: Final = (0x9E3779B9, 0xBB67AE85)
MASK: Final = 0xFFFFFFFF
MAX_SEED: Final = 2**64 - 1


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Four random 32-bit words for a 2-word `key` and a 4-word `counter`."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        low = MULTIPLIERS[0] * c0
        high = MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & MASK, (low >> 32) ^ c3 ^ k1, low & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def uniform(word: int) -> float:
    """A 32-bit word as a number in [0, 1) with 24 bits, exact in float32."""
    return (word >> 8) * 2.0**-24


def checked_seed(seed: int) -> int:
    """`seed`; raises OptionError where it does not fit 64 bits."""
    if not 0 <= seed <= MAX_SEED:
        raise OptionError(f"--seed {seed}: between 0 and {MAX_SEED} is needed")
    return seed


def uniforms(seed: int, token: int) -> tuple[float, float]:
    """The draw of generated token number `token`, and its redraw, for a 64-bit `seed`."""
    words = philox((seed & MASK, seed >> 32), (token & MASK, token >> 32, 0, 0))
    return uniform(words[0]), uniform(words[1])
