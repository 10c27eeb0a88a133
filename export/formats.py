"""Which matrix of a graph is held in which format, by a recipe."""

from fnmatch import filter as matching

import numpy as np

from sottovoce.errors import OptionError
from sottovoce.export.matrices import FloatMatrices, Matrices, QuantizedMatrices, Rounding, nearest
from sottovoce.export.quantize import PER_CHANNEL, block_size_for
from sottovoce.export.weight_recipe import BITS, WeightRecipe, recipe_of
from sottovoce.export.weights import Nodes, Ranges, Source
from sottovoce.models.config import DecoderConfig
from sottovoce.runtime.manifest import MatrixSpec, WeightFormat, WeightSpec


class FormatWeights:
    """`Weights` by a recipe; norms, biases and rotary tables stay float32."""

    def __init__(self, config: DecoderConfig, recipe: WeightRecipe, rounding: Rounding) -> None:
        """Raises OptionError where a block does not fit the decoder."""
        self._hidden, self._recipe, self._rounding = self._common(config), recipe, rounding
        layers, table = self._settled(MatrixSpec(recipe.weights, recipe.block)), self._settled(recipe.table)
        if table.block and config.hidden_size % table.block:
            fits = block_size_for(config.hidden_size)
            raise OptionError(
                f"head_block {table.block} does not divide hidden_size {config.hidden_size}: {fits} or less does"
            )
        self._table = self._matrices(table)
        self.spec = WeightSpec(
            layers=layers.format,
            head=table.format,
            embedding=table.format,
            block_size=layers.block,
            head_block=table.block,
            overrides=recipe.overrides,
            rounding="gptq" if recipe.calibrate else "nearest",
        )
        self.min_onnxruntime = "1.23" if self.spec.formats & BITS.keys() else "1.22"

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """See `Weights`."""
        return self._matrices(self._settled(self._recipe.matrix(modules))).linear(nodes, x, *modules)

    def embedding(self, nodes: Nodes, ids: str, name: str = "model.embed_tokens") -> str:
        """See `Weights`."""
        return self._table.embedding(nodes, ids, name)

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """See `Weights`."""
        return self._table.head(nodes, x, ranges)

    def _common(self, config: DecoderConfig) -> int:
        """What default blocks divide."""
        return config.hidden_size

    def _settled(self, spec: MatrixSpec) -> MatrixSpec:
        """`spec` with a block where its format has one: the largest that divides the hidden size if none is asked."""
        if spec.format not in BITS or spec.block is not None:
            return spec
        return MatrixSpec(spec.format, block_size_for(self._hidden))

    def _matrices(self, spec: MatrixSpec) -> Matrices:
        """The writer of a settled format."""
        if spec.block is None:
            return FloatMatrices(np.float16 if spec.format == "fp16" else np.float32)
        if spec.block == PER_CHANNEL:
            raise OptionError(
                "block 0, one scale for each output channel, needs --flavour portable: here are blocks alone"
            )
        return QuantizedMatrices(BITS[spec.format], spec.block, self._rounding)


def weights_for(
    weights: WeightFormat | WeightRecipe, config: DecoderConfig, rounding: Rounding = nearest
) -> FormatWeights:
    """The matrices of a decoder by a format or recipe; OptionError where it asks for what cannot be."""
    return FormatWeights(config, recipe_of(weights), rounding)


def check_overrides(weights: WeightFormat | WeightRecipe, source: Source) -> None:
    """Raise OptionError for an override that no linear module of `source` goes by."""
    modules = [name.removesuffix(".weight") for name, shape in source.shapes.items() if len(shape) == 2]
    for override in recipe_of(weights).overrides:
        if not matching(modules, override.modules):
            raise OptionError(f"weights recipe: no module is called {override.modules}; {modules[1]} is one")
