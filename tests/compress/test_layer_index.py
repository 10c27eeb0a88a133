"""The index of layers: order, rounds, files of it; the cosine index by hand; the table and the chart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure

from sottovoce.compress.attention_mass import Row
from sottovoce.compress.cosine_index import CosineIndex
from sottovoce.compress.layer_index import LayerIndex, Round, Score, measure_rounds, read_index, write_index
from sottovoce.compress.layer_report import draw, table
from sottovoce.errors import OptionError
from sottovoce.models.masks import wand_mask
from tests.models.shapes import tiny_decoder


def scored(dropped: tuple[int, ...], left: tuple[int, ...]) -> Round:
    """A measure: layers are worth their number, but layer 3 nothing once 0 is gone; 1 and 2 are worth the same."""
    values = {0: 0.1, 1: 0.2, 2: 0.2, 3: 0.05 if dropped else 0.3, 4: 0.4}
    scores = tuple(Score(i, values[i], values[i] - 0.05, values[i] + 0.1) for i in left)
    return Round(dropped, scores, 0.08)


def index(ranking: Any = "one-shot", keep: int = 2) -> LayerIndex:
    """The index of five layers."""
    return LayerIndex("wer", ranking, "abc", 5, "40 sentences", 40, measure_rounds(scored, 5, keep, ranking))


def test_layers_go_in_order_and_the_later_of_two_equal_ones_first() -> None:
    once, again = index(), index("iterative")
    assert once.order() == [0, 2, 1, 3, 4] and len(once.rounds) == 1
    assert again.order() == [0, 3, 2]
    assert [r.dropped for r in again.rounds] == [(), (0,), (0, 3)]
    assert once.kept(2) == (3, 4) and again.kept(2) == (1, 4)
    assert again.kept(4) == (1, 2, 3, 4)
    with pytest.raises(OptionError, match="--keep 1: this index was measured down to 2 layers"):
        again.kept(1)
    assert [(s.layer, s.value) for s in again.last_scores()] == [(0, 0.1), (1, 0.2), (2, 0.2), (3, 0.05), (4, 0.4)]


@pytest.mark.parametrize("ranking", ["one-shot", "iterative"])
def test_an_index_is_read_as_it_was_written(ranking: str, tmp_path: Path) -> None:
    write_index(index(ranking), tmp_path / "i.json")
    assert read_index(tmp_path / "i.json", "abc", 5) == index(ranking)


def spoiled(kind: str) -> dict[str, Any]:
    """An iterative index with something wrong."""
    value = json.loads(json.dumps(index("iterative"), default=vars))
    rounds = value["rounds"]
    if kind == "scores":
        rounds[1]["scores"] = rounds[1]["scores"][1:]
    elif kind == "order":
        rounds[1]["dropped"] = [4]
    elif kind == "empty":
        rounds[0]["scores"] = []
    elif kind == "rounds":
        value["rounds"] = []
    elif kind == "one-shot":
        value["ranking"] = "one-shot"
    elif kind == "key":
        value["extra"] = 1
    return value


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("scores", "round 2 does not follow"),
        ("order", "round 2 does not follow"),
        ("empty", "round 1 does not follow"),
        ("rounds", "has 0 rounds"),
        ("one-shot", "has 3 rounds"),
        ("key", "unknown key 'extra'$"),
    ],
)
def test_a_spoiled_index_is_refused(kind: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "i.json").write_text(json.dumps(spoiled(kind)))
    with pytest.raises(OptionError, match=says):
        read_index(tmp_path / "i.json", "abc", 5)


@pytest.mark.parametrize(("voice", "layers"), [("abd", 5), ("abc", 6)])
def test_an_index_of_another_voice_is_refused(voice: str, layers: int, tmp_path: Path) -> None:
    write_index(index(), tmp_path / "i.json")
    with pytest.raises(OptionError, match="measured on other weights"):
        read_index(tmp_path / "i.json", voice, layers)
    with pytest.raises(OptionError, match=r"--index: .*gone\.json cannot be read"):
        read_index(tmp_path / "gone.json", "abc", 5)


@pytest.mark.parametrize("window", [None, 3])
def test_cosines_by_hand(window: int | None) -> None:
    decoder = tiny_decoder("qwen2_tied", num_hidden_layers=3)
    rows = [Row(tuple(range(9)), 4), Row(tuple(range(30, 50)), 6)]
    found = CosineIndex(decoder, rows, window)((1,), (0, 2))
    assert found.dropped == (1,) and [s.layer for s in found.scores] == [0, 2] and found.whole is None
    cosines: dict[int, list[float]] = {0: [], 2: []}
    for row in rows:
        mask = wand_mask(len(row.ids), row.prefix, window or 99)
        x, rotary = decoder.begin(torch.tensor([row.ids]))
        for layer, values in cosines.items():
            y = decoder.model.layers[layer](x, rotary, mask)
            values += [float(a @ b / a.norm() / b.norm()) for a, b in zip(x[0], y[0], strict=True)]
            x = y
    for score in found.scores:
        assert score.value == pytest.approx(1 - sum(cosines[score.layer]) / 29, abs=1e-5)


def test_table() -> None:
    lines = table(index(), 3).splitlines()
    assert lines[0] == "one-shot wer index over 40 sentences, WER of the whole voice 8.00 %"
    assert [line.split()[-1] for line in lines[2:]] == ["1", "kept", "2", "kept", "kept"]
    assert lines[2].split()[:4] == ["0", "10.00", "[5.00,", "20.00]"]
    assert [line.split()[-1] for line in table(index(), None).splitlines()[2:]] == ["1", "3", "2", "4", "5"]
    cosine = replace(index(), kind="cosine", rounds=(Round((), tuple(Score(i, 0.5) for i in range(5))),))
    assert table(cosine, 3).splitlines()[2].split() == ["0", "0.5000", "–", "kept"]


def test_the_chart_marks_what_goes(tmp_path: Path) -> None:
    pale = []
    for keep in (None, 4, 1):
        draw(index(), keep, tmp_path / "i.png")
        picture = image.imread(tmp_path / "i.png")[..., :3]
        pale.append(int((abs(picture - 0xC9 / 255) < 1e-3).all(-1).sum()))
    assert pale[0] < pale[1] < pale[2]
    assert [path.name for path in tmp_path.iterdir()] == ["i.png"]


@pytest.mark.parametrize(("keep", "labels"), [(None, ["whole voice"]), (4, ["kept", "goes", "whole voice"])])
def test_the_chart_says_what_is_what(
    keep: int | None, labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **more: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **more)

    monkeypatch.setattr(Figure, "savefig", saved)
    draw(index(), keep, tmp_path / "i.png")
    assert [text.get_text() for legend in drawn[0].legends for text in legend.get_texts()] == labels
