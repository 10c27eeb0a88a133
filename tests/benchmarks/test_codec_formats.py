"""The codec's formats side by side: measured in turns, and a slower int8 is a missed gate."""

import pytest
from benchmarks.codec_formats import CHUNKS, main, report


def test_both_are_timed_and_compared(tiny_voice, capsys) -> None:
    options = ["--codec", str(tiny_voice / "codec"), "--prompts", str(tiny_voice / "prompts"), "--rounds", "2"]
    assert main(options) in (0, 1)
    said = capsys.readouterr().out
    assert said.startswith("fp32 0.1 MB, int8 0.1 MB") and " dB below the audio" in said
    assert all(f" {size} codes: fp32 " in said for size in CHUNKS)


@pytest.mark.parametrize(("slow", "met"), [(1.0, True), (1.2, False)])
def test_int8_may_not_be_slower(capsys, slow: float, met: bool) -> None:
    assert report({4: {"fp32": 1.0, "int8": slow}, 25: {"fp32": 1.0, "int8": 0.5}}) == met
    assert ("MISS" in capsys.readouterr().out) == (not met)
