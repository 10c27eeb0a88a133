"""One layer rounded at a time: figures are those of a decoder that was really changed, and it is whole afterwards."""

import json
from pathlib import Path

import pytest
import torch

from sottovoce.__main__ import main
from sottovoce.export.own_speech import own_speech
from sottovoce.export.parity import divergence
from sottovoce.export.quantize import quantized_shapes, rounded
from sottovoce.export.sensitivity import FORMATS, TABLE, sensitivity
from sottovoce.models.masks import wand_mask
from sottovoce.models.voice import Voice
from tests.models.shapes import tiny_decoder

HEARD = ((tuple(range(3, 10)), tuple(range(20, 60))), (tuple(range(5, 9)), tuple(range(30, 70))))
IDS = range(20, 90)


@pytest.mark.parametrize("name", ["qwen2_tied", "llama3_rope", "gpt2_own_head"])
def test_a_figure_is_that_of_the_changed_decoder(name: str) -> None:
    decoder, changed = tiny_decoder(name), tiny_decoder(name)
    found = sensitivity(decoder, HEARD, 6, IDS, formats=((4, 32), (8, 64)))
    assert all(value.equal(decoder.state_dict()[key]) for key, value in changed.state_dict().items())
    assert [row.part for row in found.rows[::2]] == [TABLE, "layer 0", "layer 1"]
    assert found.tokens == 41 + 41
    size = 0
    for parameter in changed.model.layers[1].parameters():
        if parameter.dim() == 2:
            parameter.copy_(torch.from_numpy(rounded(parameter.numpy(), 32, 4)))
            values, scales = quantized_shapes(len(parameter), parameter.shape[1], 32, 4)
            size += values[0] * values[1] * values[2] + 4 * scales[0] * scales[1]
    logits = []
    for one in (decoder, changed):
        said = []
        for prefix, tokens in HEARD:
            ids = torch.tensor([[*prefix, *tokens]])
            hidden = one(ids, mask=wand_mask(ids.shape[1], len(prefix), 6))[0, len(prefix) - 1 :]
            said.append(one.logits(hidden, torch.tensor(IDS)))
        logits.append(torch.cat(said).numpy())
    row = next(row for row in found.rows if (row.part, row.bits) == ("layer 1", 4))
    assert row.kl == pytest.approx(divergence(*logits), rel=1e-3)
    assert row.bytes == size


def test_fewer_bits_and_larger_blocks_cost_more() -> None:
    rows = sensitivity(tiny_decoder("llama3_rope"), HEARD, 6, IDS, formats=((8, 64), (4, 16), (4, 64), (2, 64))).rows
    for part in (rows[:4], rows[4:8], rows[8:]):
        assert [row.kl for row in part] == sorted(row.kl for row in part)
        assert part[0].kl > 0


def test_own_speech_is_sampled_sentence_by_sentence(tiny_voice: Path) -> None:
    voice = Voice.open(tiny_voice)
    decoder = voice.checkpoint.load().eval().requires_grad_(False)
    said = own_speech(voice, decoder, 91, "one two. three four. five.")
    assert len(said) == 3
    spec = voice.complete()
    layout, codes = spec.prompt.layout, voice.prompts()["ada"].codes
    assert all(prefix[0] == layout[0] and prefix[-1] == layout[-1] for prefix, _ in said)
    assert said[0][0][-1 - len(codes) : -1] == said[2][0][-1 - len(codes) : -1] == codes  # offset 0; bob's between them
    assert said[1][0] != said[0][0]
    allowed = {*range(spec.prompt.code_count), *spec.prompt.stop}
    assert all(tokens and set(tokens) <= allowed for _, tokens in said)
    assert said == own_speech(voice, decoder, 91, "one two. three four. five.")


def test_the_command_prints_a_table_and_writes_json(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "say.txt").write_text("one two.")
    options = ["--sentences", str(tmp_path / "say.txt"), "-o", str(tmp_path / "found.json"), "--threads", "1"]
    assert main(["sensitivity", str(tiny_voice), *options]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == 3 * len(FORMATS)
    said = capsys.readouterr().out
    assert "layer 1" in said
    assert f"{found['rows'][-1]['kl']:.1e}" in said
    assert main(["sensitivity", str(tiny_voice), "--sentences", str(tmp_path / "none.txt")]) == 2
    assert "none.txt cannot be read" in capsys.readouterr().err
