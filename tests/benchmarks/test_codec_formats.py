"""The codec's formats side by side: measured in turns, and a slower int8 is a missed gate."""

import pytest
from benchmarks.codec_formats import CHUNKS, main, report


def test_both_are_timed_and_compared(tiny_voice, capsys) -> None:
    options = ["--codec", str(tiny_voice / "codec"), "--prompts", str(tiny_voice / "prompts"), "--rounds", "2"]
    assert main(options) in (0, 1)
    said = capsys.readouterr().out
    assert said.startswith("fp32 0.13 MB, int8 0.06 MB")
    assert 20 < float(said.split("adds lies ")[1].split(" dB")[0]) < 60
    assert all(f" {size} codes: fp32 " in said for size in CHUNKS)


@pytest.mark.parametrize(("slow", "met"), [(1.02, True), (1.04, False)])
def test_int8_may_not_be_slower(capsys, slow: float, met: bool) -> None:
    assert report({4: {"fp32": 1.0, "int8": slow}, 25: {"fp32": 1.0, "int8": 0.5}}) == met
    assert ("MISS" in capsys.readouterr().out) == (not met)
