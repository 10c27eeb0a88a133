"""Recipes: the shipped one is complete and tells its evidence; what is wrong with another is named by file and key."""

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from sottovoce.compress.recipe import WindowRecipe, read_recipe
from sottovoce.errors import OptionError

SHIPPED = (resources.files("sottovoce.compress") / "recipes" / "window.toml").read_text()


def test_the_shipped_recipe_is_read_and_every_value_has_its_evidence() -> None:
    recipe = read_recipe(WindowRecipe, "window")
    assert (recipe.curriculum.start, recipe.train.lr, recipe.train.warmup) == (128, 1e-5, 0.03)
    values = [line for line in SHIPPED.splitlines() if "=" in line.partition("#")[0]]
    assert len(values) == sum(len(section) for section in tomllib.loads(SHIPPED).values())
    assert all(len(line.partition("#")[2].split()) >= 2 for line in values)


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


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"gone\.toml cannot be read"):
        read_recipe(WindowRecipe, "window", tmp_path / "gone.toml")
