"""Constants that are kept quantized, palettized or sparse: decompressed here as coremltools does it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.types import np_uint1_dtype

from sottovoce.export.mil.apple import coremltools as ct
from sottovoce.export.mil.package import load_package
from sottovoce.export.mil.runner import Runner
from tests.export.mil.programs import save

RANDOM = np.random.default_rng(3)
NEW, OLD = ct.target.iOS18, ct.target.iOS16


def integers(kind: Any, low: int, high: int, *shape: int) -> np.ndarray:
    """Whole numbers of a MIL type."""
    return RANDOM.integers(low, high, shape).astype(types.nptype_from_builtin(kind))


def halves(*shape: int) -> np.ndarray:
    """fp16 numbers."""
    return RANDOM.standard_normal(shape).astype(np.float16)


def bits(count: int, *shape: int) -> np.ndarray:
    """A mask with `count` ones."""
    mask = np.zeros(int(np.prod(shape)), np.uint8)
    mask[RANDOM.permutation(mask.size)[:count]] = 1
    return mask.reshape(shape).astype(np_uint1_dtype)


def lut(entries: int, *blocks: int, vector: int = 1) -> np.ndarray:
    """Tables of fp16 entries."""
    return halves(*blocks, entries, vector)


CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "int8 per channel": (
        NEW,
        "constexpr_blockwise_shift_scale",
        {"data": integers(types.int8, -128, 128, 40, 64), "scale": halves(40, 1)},
    ),
    "int4 per block": (
        NEW,
        "constexpr_blockwise_shift_scale",
        {"data": integers(types.int4, -8, 8, 40, 64), "scale": halves(40, 2)},
    ),
    "uint4 per block, offset": (
        NEW,
        "constexpr_blockwise_shift_scale",
        {
            "data": integers(types.uint4, 0, 16, 8, 64, 1, 1),
            "scale": halves(8, 2, 1, 1),
            "offset": integers(types.uint4, 0, 16, 8, 2, 1, 1),
        },
    ),
    "small enough to stand in the model": (
        NEW,
        "constexpr_blockwise_shift_scale",
        {"data": integers(types.int4, -8, 8, 1, 3), "scale": halves(1, 1)},
    ),
    **{
        f"table of {entries}": (
            NEW,
            "constexpr_lut_to_dense",
            {"indices": integers(kind, 0, entries, 24, 30), "lut": lut(entries, 1, 1)},
        )
        for kind, entries in (
            (types.uint1, 2),
            (types.uint2, 4),
            (types.uint3, 8),
            (types.uint4, 16),
            (types.uint6, 64),
            (types.uint8, 256),
        )
    },
    "table per group": (
        NEW,
        "constexpr_lut_to_dense",
        {"indices": integers(types.uint4, 0, 16, 32, 8, 1, 1), "lut": lut(16, 2, 4, 1, 1)},
    ),
    "table of vectors": (
        NEW,
        "constexpr_lut_to_dense",
        {"indices": integers(types.uint2, 0, 4, 6, 8), "lut": lut(4, 2, 1, vector=3), "vector_axis": 0},
    ),
    "sparse": (NEW, "constexpr_sparse_to_dense", {"nonzero_data": halves(50), "mask": bits(50, 8, 9)}),
    "iOS 16 affine per channel": (
        OLD,
        "constexpr_affine_dequantize",
        {
            "quantized_data": integers(types.uint8, 0, 255, 6, 20),
            "zero_point": integers(types.uint8, 0, 255, 6),
            "scale": halves(6),
            "axis": 0,
        },
    ),
    "iOS 16 affine": (
        OLD,
        "constexpr_affine_dequantize",
        {
            "quantized_data": integers(types.int8, -128, 127, 6, 20),
            "zero_point": np.int8(3),
            "scale": np.float16(0.25),
            "axis": 0,
        },
    ),
    "iOS 16 table": (
        OLD,
        "constexpr_lut_to_dense",
        {
            "indices": RANDOM.integers(0, 256, 48).astype(np.uint8),
            "lut": halves(16),
            "shape": np.array([8, 12], np.uint32),
        },
    ),
    "iOS 16 sparse": (
        OLD,
        "constexpr_sparse_to_dense",
        {
            "nonzero_data": halves(8),
            "mask": np.array([0b10010110, 0b00001111], np.uint8),
            "shape": np.array([2, 8], np.uint32),
        },
    ),
    "iOS 16 cast": (OLD, "constexpr_cast", {"source_val": halves(5, 40), "output_dtype": "fp32"}),
}


@pytest.mark.parametrize("name", CASES)
def test_decompressed_as_coremltools_does(name: str, tmp_path: Path) -> None:
    target, kind, params = CASES[name]
    expected: list[np.ndarray] = []

    def build(x: Any) -> Any:
        weight = getattr(mb, kind)(**params)
        expected.append(weight.op.materialized_val_inference())
        wide = weight if weight.dtype == types.fp32 else mb.cast(x=weight, dtype="fp32")
        return mb.add(x=x, y=wide)

    zeros = np.zeros((1,), np.float32)
    path = save(tmp_path / "a.mlpackage", [zeros], build, target)
    runner = Runner(load_package(path))
    (found,) = runner.run(dict.fromkeys(runner.function.inputs, zeros)).values()
    assert found.shape == expected[0].shape
    np.testing.assert_array_equal(found, expected[0].astype(np.float32))
