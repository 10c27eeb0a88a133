"""The methods one after the other: what works ends in a voice that speaks, what does not is refused with a reason."""

from pathlib import Path

import onnx
import pytest

from sottovoce.__main__ import main
from sottovoce.compress.evaluate.synthesise import open_subject
from sottovoce.export import plan
from sottovoce.export.plan import Request, plan_export
from sottovoce.models.voice import Voice
from tests.compress.corpora import coded_corpus, toy_recipe
from tests.compress.test_patch_voice import CHANGES

LAST = "needs a voice of tokens; patch last: prune -> window -> patch"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coded_corpus(tmp_path_factory.mktemp("corpora") / "codes", 12)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_recipe("patch", CHANGES, tmp_path_factory.mktemp("recipes"))


def step(method: str, voice: Path, output: Path, corpus: Path, recipe: Path) -> int:
    """One method over `voice`, in a moment; its exit status."""
    options = {
        "prune": ["--keep", "1", "--index", "cosine", "--utterances", "1"],
        "window": ["--window", "9"],
        "patch": ["--distill", str(corpus), "--recipe", str(recipe), "--steps", "1", "--threads", "1"],
    }[method]
    return main(["compress", method, str(voice), "-o", str(output), *options])


@pytest.mark.parametrize(
    ("order", "window"),
    [
        (("patch",), None),
        (("window", "patch"), 3),
        (("prune", "patch"), None),
        (("prune", "window", "patch"), 3),
        (("window", "prune", "patch"), 3),
    ],
)
def test_patch_goes_last(
    order: tuple[str, ...], window: int | None, tiny_voice: Path, tiny_bundle: Path, corpus: Path, recipe: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A window of 9 tokens is one of 3 patches; the voice speaks, and its export is planned."""
    voice = tiny_voice
    for number, method in enumerate(order):
        voice, before = tmp_path / f"{number}", voice
        assert step(method, before, voice, corpus, recipe) == 0
    spec = Voice.open(voice).complete()
    assert [entry["method"] for entry in spec.history] == list(order)
    assert spec.window == window and spec.patch
    layers = 1 if "prune" in order else 2
    graphs = {name: onnx.load(tiny_bundle / name) for name in ("codec_decoder.onnx", "codec_encoder.onnx")}
    monkeypatch.setattr(plan, "codec_graphs", lambda *_: graphs)
    backbone, *_ = plan_export(Voice.open(voice), Request("int8")).parts.cache.groups
    assert (backbone.layers, backbone.window) == (layers, window or 24)
    audio, stats = open_subject(voice, ["ada"], threads=1).say("Hello.", "ada", 1)
    assert stats.sentences[0].codes and audio.size


@pytest.mark.parametrize("method", ["prune", "window", "patch"])
def test_nothing_goes_behind_patch(
    method: str, patch_voice: Path, corpus: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step(method, patch_voice, tmp_path / "out", corpus, recipe) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"sottovoce: {patch_voice} speaks in patches: compress {method} {LAST}"
    assert not (tmp_path / "out").exists()
