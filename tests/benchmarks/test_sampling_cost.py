"""The table of draws: every rule is timed, and the gate can be missed."""

import numpy as np
import pytest
from benchmarks.sampling import RULES, SPREADS, main, perplexity, report

from tests.models.shapes import CONFIGS


def test_every_rule_is_timed_beside_the_step(capsys, tmp_path) -> None:
    config = CONFIGS["qwen2_tied"] | {"vocab_size": 300}
    assert main(["--steps", "0", "--folder", str(tmp_path)], config) == 0
    assert not capsys.readouterr().out
    assert main(["--steps", "3", "--folder", str(tmp_path)], config) in (0, 1)
    said = capsys.readouterr().out
    assert all(said.count(f"| {rule} |") == 1 for rule in RULES)


@pytest.mark.parametrize(("slow", "met"), [(0.03, True), (0.031, False)])
def test_the_gate_is_of_decided_logits(capsys, slow: float, met: bool) -> None:
    draws = {(spread, rule): 0.5 if spread == "flat" else 0.01 for spread in SPREADS for rule in RULES}
    assert report(1.0, draws | {("decided", "greedy"): slow}, dict.fromkeys(SPREADS, 1.0)) == met
    assert ("MISS" in capsys.readouterr().out) == (not met)


def test_perplexity_of_equals_is_their_number() -> None:
    assert perplexity(np.zeros((2, 50))) == pytest.approx(50)
