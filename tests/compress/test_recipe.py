"""Recipes: the shipped one is complete and tells its evidence; what is wrong with another is named by file and key."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sottovoce.compress.recipe import PatchRecipe, PruneRecipe, WindowRecipe, read_recipe
from sottovoce.errors import OptionError

FOLDER = resources.files("sottovoce.compress") / "recipes"
SHIPPED = (FOLDER / "window.toml").read_text()


KINDS = [
    ("window", WindowRecipe, (1e-5, 0.03)),
    ("prune", PruneRecipe, (1e-5, 0.03)),
    ("patch", PatchRecipe, (1e-4, 0.01)),
]


@pytest.mark.parametrize(("name", "kind", "rate"), KINDS)
def test_a_shipped_recipe_is_read_and_every_value_has_its_evidence(
    name: str, kind: Any, rate: tuple[float, ...]
) -> None:
    recipe, shipped = read_recipe(kind, name), (FOLDER / f"{name}.toml").read_text()
    assert (recipe.train.lr, recipe.train.warmup, recipe.train.precision) == (*rate, "bf16")
    values = [line for line in shipped.splitlines() if "=" in line.partition("#")[0]]
    assert len(values) == sum(len(section) for section in tomllib.loads(shipped).values())
    assert all(len(line.partition("#")[2].split()) >= 2 for line in values)


def test_the_papers_values() -> None:
    window, loss = read_recipe(WindowRecipe, "window"), read_recipe(PruneRecipe, "prune").loss
    assert window.curriculum.start == 128
    others = (loss.kl, loss.hidden, loss.attention, loss.embedding)
    assert (loss.ce, others, loss.matching) == (0.25, (0.75 / 4,) * 4, "dynamic")
    patch = read_recipe(PatchRecipe, "patch")
    assert (patch.lora.rank, patch.lora.scale, patch.lora.lr) == (64, 1.0, 5e-5)
    assert (patch.train.final, patch.train.weight_decay, patch.train.clip) == (0.1, 0.01, 1.0)


@pytest.mark.parametrize(
    ("key", "value"), [("rank = 64", "rank = -1"), ("scale = 1.0", "scale = 0.0"), ("lr = 5e-5", "lr = 0")]
)
def test_a_bad_lora(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "patch.toml").read_text().replace(key, value, 1))
    with pytest.raises(OptionError, match=rf"mine\.toml: lora\.{key.split()[0]} is "):
        read_recipe(PatchRecipe, "patch", path)


def test_a_start_at_the_longest_utterance(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace("start = 128", 'start = "longest"'))
    assert read_recipe(WindowRecipe, "window", path).curriculum.start == "longest"


BAD = {
    "unknown key": ("clip = 1.0", "clip = 1.0\nmomentum = 0.9", r"train: unknown key 'momentum'$"),
    "unknown section": ("[loss]", "[losses]\nx = 1\n[loss]", r"unknown key 'losses'$"),
    "missing key": ("skew = 0.1", "", "loss.*skew"),
    "wrong type": ("clip = 1.0", 'clip = "much"', r"train\.clip: expected a finite number"),
    "no number": ("lr = 1e-5", "lr = nan", r"train\.lr: expected a finite number"),
    "negative": ("lr = 1e-5", "lr = -1e-5", r"train\.lr is -1e-05, it must be above 0"),
    "a share above 1": ("warmup = 0.03", "warmup = 3", r"train\.warmup is 3\.0, .* between 0 and 1"),
    "beta": ("0.999]", "1.0]", r"train\.betas"),
    "no steps": ("epochs = 1.0", "epochs = 0.0", r"train\.steps"),
    "no tokens": ("tokens = 16384", "tokens = 0", r"batch\.tokens"),
    "history": ("history = 0.0", "history = 1.5", r"batch\.history is 1\.5, .* between 0 and 1"),
    "no loss": ("ce = 1.0 ", "ce = 0.0 \nkl = 0.0 #", "loss is"),
    "skew": ("skew = 0.1", "skew = 1.0", r"loss\.skew"),
    "start": ("start = 128", "start = 1", r"curriculum\.start is 1"),
    "falling": ("tau_end = 1000.0", "tau_end = 0.5", r"tau_start, tau_end"),
    "other precision": ('"bf16"     ', '"int8" #', r"train\.precision: expected one of fp32"),
    "no TOML": ("[loss]", "[loss", "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_recipe_is_named(tmp_path: Path, kind: str) -> None:
    old, new, says = BAD[kind]
    text = SHIPPED.replace(old, new)
    if kind == "no loss":
        text = text.replace("\nkl = 1.0", "\n#")
    assert text != SHIPPED
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=says) as caught:
        read_recipe(WindowRecipe, "window", path)
    assert str(caught.value).startswith(str(path))


BAD_LOSSES = {
    "no loss": ({"ce = 0.25": "ce = 0.0", "kl = 0.1875": "kl = 0.0"}, "loss is .* ce or kl above 0"),
    "negative": ({"hidden = 0.1875": "hidden = -0.1"}, "loss is .* at least 0 each"),
    "skew": ({"skew = 0.1": "skew = 1.0"}, r"loss\.skew"),
    "matching": ({'"dynamic"': '"other"'}, r"loss\.matching: expected one of dynamic, static"),
    "curriculum": ({"[batch]": "[curriculum]\nshare = 1.0\n[batch]"}, "unknown key 'curriculum'$"),
}


@pytest.mark.parametrize("kind", BAD_LOSSES)
def test_a_bad_way_to_prune_is_named(tmp_path: Path, kind: str) -> None:
    text, (changes, says) = (FOLDER / "prune.toml").read_text(), BAD_LOSSES[kind]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=says):
        read_recipe(PruneRecipe, "prune", path)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"gone\.toml cannot be read"):
        read_recipe(WindowRecipe, "window", tmp_path / "gone.toml")
