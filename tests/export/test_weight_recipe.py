"""A recipe file says what the options say and more; what it cannot mean is said by file and key."""

from dataclasses import replace
from pathlib import Path

import pytest

from sottovoce.errors import OptionError
from sottovoce.export.formats import weights_for
from sottovoce.export.weight_recipe import WeightRecipe, read_weight_recipe
from sottovoce.runtime.manifest import MatrixSpec, WeightFormat, WeightOverride
from tests.models.shapes import tiny_decoder

FILE = """
weights = "int4"
block = 64
head = "int8"

[[overrides]]
modules = "model.layers.0.*"
weights = "int8"
block = 32

[[overrides]]
modules = "*.down_proj"
weights = "fp32"
"""


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mixed.toml").write_text(FILE)
    recipe = read_weight_recipe(tmp_path / "mixed.toml")
    overrides = (WeightOverride("model.layers.0.*", "int8", 32), WeightOverride("*.down_proj", "fp32"))
    assert recipe == WeightRecipe("int4", 64, "int8", overrides=overrides)
    assert recipe.matrix(["model.layers.0.mlp.up_proj"]) == MatrixSpec("int8", 32)
    assert recipe.matrix(["model.layers.0.mlp.down_proj"]) == MatrixSpec("fp32")
    assert recipe.matrix(["model.layers.1.mlp.up_proj"]) == MatrixSpec("int4", 64)


@pytest.mark.parametrize(("weights", "table"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8"), ("int4", "int8")])
def test_head_and_embedding_are_as_the_layers_but_never_coarser_than_int8(weights, table) -> None:
    assert WeightRecipe(weights).table == MatrixSpec(table)
    assert WeightRecipe(weights, head="int4").table == MatrixSpec("int4")


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_blocks_are_the_largest_that_fit_where_none_is_asked(weights: WeightFormat) -> None:
    wide = replace(tiny_decoder("qwen2_tied").config, hidden_size=896)
    assert weights_for(weights, wide).spec.block_size == weights_for(weights, wide).spec.head_block == 128
    assert weights_for(WeightRecipe(weights, 32), wide).spec.block_size == 32


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('weight = "int4"', "mixed.toml: unknown key 'weight'$"),
        ('weights = "int5"', "mixed.toml.weights: expected one of fp32"),
        ("block = 48", "mixed.toml: block 48: the engine knows 128, 64, 32, 16"),
        ('weights = "fp32"\nblock = 32', "mixed.toml: block 32 goes with int8 and int4: fp32 has no blocks"),
        (
            'weights = "int4"\nblock = 0',
            "mixed.toml: block 0, one scale for each output channel, goes with int8, not",
        ),
        ('block = 0\nhead = "int4"', "mixed.toml: block 0 and head int4, which has blocks"),
        ("block = 0\ncalibrate = true", "mixed.toml: calibrate goes with blocks, not with block 0"),
        ('[[overrides]]\nmodules = "*"', "mixed.toml.overrides.0.: .*weights"),
        ('[[overrides]]\nmodules = "*"\nweights = "int8"\nbits = 4', "unknown key 'bits'"),
        ("block = ", "mixed.toml cannot be read"),
    ],
)
def test_what_a_file_cannot_mean(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mixed.toml").write_text(text)
    with pytest.raises(OptionError, match=says):
        read_weight_recipe(tmp_path / "mixed.toml")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.toml cannot be read"):
        read_weight_recipe(tmp_path / "none.toml")


def test_int8_matrices_beside_whole_rows_are_whole_rows_too() -> None:
    recipe = WeightRecipe("int8", 0, overrides=(WeightOverride("a.*", "int8"), WeightOverride("b.*", "int8", 32)))
    assert recipe.table == recipe.matrix(["a.x"]) == recipe.matrix(["c.x"]) == MatrixSpec("int8", 0)
    assert recipe.matrix(["b.x"]) == MatrixSpec("int8", 32)
    assert WeightRecipe("int8", 0, head="fp32").table == MatrixSpec("fp32")
