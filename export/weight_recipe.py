"""What a user asks of the weights: formats of the layers, of head and embedding, and of exceptions."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sottovoce.errors import BundleError, OptionError
from sottovoce.export.quantize import BLOCK_SIZES, PER_CHANNEL
from sottovoce.runtime.manifest import MatrixSpec, WeightFormat, WeightOverride
from sottovoce.runtime.parse import parse

FORMATS: tuple[WeightFormat, ...] = ("fp32", "fp16", "int8", "int4")
"""Weight formats that can be written."""

BITS: dict[WeightFormat, int] = {"int8": 8, "int4": 4}
"""Bits of a quantized weight."""


@dataclass(frozen=True)
class WeightRecipe:
    """Formats of all matrices.

    `weights` and `block` are the layers'; `head` and `head_block` those of head and embedding, which share their bytes
    where the voice ties them; a block of 0 is a whole row. None leaves a choice to `matrix` and `table`. `overrides` go
    by module name, the last that matches counts. `calibrate` rounds the layers for the voice's own speech (GPTQ), not
    to the nearest step.
    """

    weights: WeightFormat = "int8"
    block: int | None = None
    head: WeightFormat | None = None
    head_block: int | None = None
    overrides: tuple[WeightOverride, ...] = ()
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Raises OptionError for what cannot be written."""
        for name, block in ((self.weights, self.block), (self.table.format, self.head_block)):
            _check(name, block)
        for override in self.overrides:
            _check(override.weights, override.block)
        if self.block == PER_CHANNEL and self.table.format == "int4":
            raise OptionError("block 0 and head int4, which has blocks: take int8, fp16 or fp32 there")
        if self.calibrate and self.block == PER_CHANNEL:
            raise OptionError("calibrate goes with blocks, not with block 0, one scale for each output channel")
        if self.calibrate and not BITS.keys() & {self.weights, *(override.weights for override in self.overrides)}:
            raise OptionError(f"calibrate goes with int8 and int4, the layers are {self.weights}")

    @property
    def table(self) -> MatrixSpec:
        """Format of head and embedding: the layers', but int8 over int4, where a table costs most of what is lost.

        Whoever asks for whole rows has an engine that knows no blocks.
        """
        name = self.head or ("int8" if self.weights == "int4" else self.weights)
        return MatrixSpec(name, self._inherited(name, self.head_block))

    def _inherited(self, name: WeightFormat, block: int | None) -> int | None:
        """`block`, or whole rows where the layers have them and none was asked for."""
        return PER_CHANNEL if self.block == PER_CHANNEL and name == "int8" and block is None else block

    def matrix(self, modules: Sequence[str]) -> MatrixSpec:
        """Format of the linear `modules`, which are one product; OptionError where overrides tell them apart."""
        found = {self._module(name) for name in modules}
        if len(found) > 1:
            raise OptionError(f"weights recipe: {', '.join(modules)} are one product, name them all or none")
        return found.pop()

    def _module(self, name: str) -> MatrixSpec:
        """Format of one module."""
        matching = [
            MatrixSpec(o.weights, self._inherited(o.weights, o.block))
            for o in self.overrides
            if fnmatchcase(name, o.modules)
        ]
        return [MatrixSpec(self.weights, self.block), *matching][-1]


def recipe_of(weights: WeightFormat | WeightRecipe) -> WeightRecipe:
    """A format alone stands for the recipe of all its defaults."""
    return weights if isinstance(weights, WeightRecipe) else WeightRecipe(weights)


def read_weight_recipe(path: Path) -> WeightRecipe:
    """The recipe in a TOML file: the fields of WeightRecipe, and `[[overrides]]` of `modules`, `weights`, `block`.

    Raises OptionError naming file and key where it cannot be read, is not TOML or is no such recipe.
    """
    try:
        recipe: WeightRecipe = parse(WeightRecipe, tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except BundleError as error:
        raise OptionError(str(error)) from None
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from None
    return recipe


def _check(name: WeightFormat, block: int | None) -> None:
    """Raise OptionError for a format that cannot be written, or a block where there are none."""
    if name not in FORMATS:
        raise OptionError(f"weights {name} cannot be written by this version: {', '.join(FORMATS)}")
    if block == PER_CHANNEL and name != "int8":
        raise OptionError(f"block 0, one scale for each output channel, goes with int8, not with {name}")
    if name not in BITS and block is not None:
        raise OptionError(f"block {block} goes with int8 and int4: {name} has no blocks")
    if block is not None and block not in (*BLOCK_SIZES, PER_CHANNEL):
        raise OptionError(f"block {block}: the engine knows {', '.join(map(str, BLOCK_SIZES))}")
