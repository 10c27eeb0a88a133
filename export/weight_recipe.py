"""What a user asks of the weights: a format, and the block where it is quantized."""

from dataclasses import dataclass

from sottovoce.errors import OptionError
from sottovoce.runtime.manifest import WeightFormat

FORMATS: tuple[WeightFormat, ...] = ("fp32", "int8", "int4")
"""Weight formats that can be written."""


@dataclass(frozen=True)
class WeightRecipe:
    """Format of every matrix; `block` None is the default of the format."""

    format: WeightFormat = "int8"
    block: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for what cannot be written."""
        if self.format not in FORMATS:
            raise OptionError(f"--weights {self.format} cannot be written by this version: {', '.join(FORMATS)}")
        if self.format == "fp32" and self.block is not None:
            raise OptionError("--block goes with int8 and int4: fp32 has no blocks")


def recipe_of(weights: WeightFormat | WeightRecipe) -> WeightRecipe:
    """A format alone stands for the recipe of all its defaults."""
    return weights if isinstance(weights, WeightRecipe) else WeightRecipe(weights)
