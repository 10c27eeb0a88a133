"""The codec's formats side by side: measured in turns, and a slower one is a missed gate."""

import pytest
from benchmarks.codec_formats import CHUNKS, main, report

from sottovoce.runtime.manifest import CodecFormat


def test_all_are_timed_and_compared(tiny_voice, capsys) -> None:
    options = ["--codec", str(tiny_voice / "codec"), "--prompts", str(tiny_voice / "prompts"), "--rounds", "2"]
    assert main(options) in (0, 1)
    said = capsys.readouterr().out
    assert said.startswith("fp32 0.13 MB, fp16 0.07 MB, int8 0.06 MB")
    half, eight = (float(line.split("adds lies ")[1].split(" dB")[0]) for line in said.splitlines()[1:3])
    assert 20 < eight < 60 < half
    assert all(f" {size} codes: fp32 " in said for size in CHUNKS)


@pytest.mark.parametrize("name", ["fp16", "int8"])
@pytest.mark.parametrize(("slow", "met"), [(1.02, True), (1.04, False)])
def test_none_may_be_slower(capsys, name: CodecFormat, slow: float, met: bool) -> None:
    fast: dict[CodecFormat, float] = {"fp32": 1.0, "fp16": 1.0, "int8": 0.5}
    assert report({4: {**fast, name: slow}, 25: fast}) == met
    assert ("MISS" in capsys.readouterr().out) == (not met)
