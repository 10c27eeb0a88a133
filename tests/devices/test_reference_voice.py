"""The gates on the reference voice's speed: each can be missed."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import reference_voice

from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import Profile


@pytest.fixture(scope="module")
def profile(tiny_bundle: Path) -> Profile:
    found = profile_bundle(tiny_bundle, "hello there", runs=1, threads=1)
    return replace(found, timing=replace(found.timing, rtf=0.1, ttfa=0.1))


@pytest.mark.parametrize(
    ("timing", "missed"),
    [
        ({}, []),
        ({"rtf": 0.16}, ["RTF"]),
        ({"ttfa": 0.16}, ["TTFA"]),
        ({"rtf": None}, ["RTF"]),
        ({"rtf": float("nan"), "ttfa": float("nan")}, ["RTF", "TTFA"]),
    ],
)
def test_gates(profile: Profile, capsys, timing: dict[str, Any], missed: list[str]) -> None:
    found = replace(profile, timing=replace(profile.timing, **timing))
    assert reference_voice.report(found) is not bool(missed)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(",") for line in lines if line.startswith("MISS")] == missed


def test_it_profiles_the_bundle_it_is_given(tiny_bundle: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reference_voice", str(tiny_bundle), "--runs", "1"])
    monkeypatch.setattr(reference_voice, "RTF", 0.0)
    assert reference_voice.main() == 1
    assert "MISS RTF" in capsys.readouterr().out
