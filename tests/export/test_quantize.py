"""Packed bytes against the operators' own arithmetic in ONNX Runtime, and against the bound that rounding promises."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from sottovoce.errors import OptionError
from sottovoce.export.quantize import block_size_for, pack, quantize


def run(op: str, data: dict[str, np.ndarray], feed: np.ndarray, inputs: list[str], **attributes: int) -> np.ndarray:
    """One node over constant `data`."""
    kind = TensorProto.FLOAT if feed.dtype == np.float32 else TensorProto.INT64
    graph = make_graph(
        [make_node(op, inputs, ["y"], domain="com.microsoft", **attributes)],
        "one",
        [make_tensor_value_info("x", kind, feed.shape)],
        [make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [from_array(array, name) for name, array in data.items()],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 21), make_opsetid("com.microsoft", 1)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": feed})[0]
    return result


def dequantize(packed: np.ndarray, scales: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """The operators' definition: (value − 2^(bits−1)) · scale, low bits first, padding cut off."""
    steps = np.stack([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)], axis=-1)
    values = (steps.reshape(*scales.shape, -1).astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
    return values.reshape(len(packed), -1)[:, :columns]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("rows", "columns", "block"), [(96, 64, 64), (33, 96, 64), (70, 256, 128), (5, 48, 16)])
def test_operators_read_what_is_packed(rows: int, columns: int, block: int, bits: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    weight[2] = 0
    packed, scales = quantize(weight, block, bits)
    restored = dequantize(packed, scales, columns, bits)
    steps = np.abs(restored - weight) / np.maximum(np.abs(scales), 1e-9).repeat(block, 1)[:, :columns]
    assert steps.max() <= (0.5 if bits == 8 else 1) + 1e-4
    assert np.square(steps).mean() < 1.1 / 12  # as rounding leaves it: what is cut off is rare
    assert np.array_equal(restored[2], np.zeros(columns))

    x = random.standard_normal((7, columns)).astype(np.float32)
    names, sizes = ["x", "w", "s"], {"bits": bits, "block_size": block}
    product = run("MatMulNBits", {"w": packed, "s": scales}, x, names, N=rows, K=columns, accuracy_level=0, **sizes)
    np.testing.assert_allclose(product, x @ restored.T, atol=1e-4)

    if columns % block == 0:
        ids = np.array([[0, rows - 1, 3]])
        data = {"w": packed.reshape(rows, -1), "s": scales}
        gathered = run("GatherBlockQuantized", data, ids, ["w", "x", "s"], gather_axis=0, quantize_axis=1, **sizes)
        np.testing.assert_allclose(gathered, restored[ids], atol=1e-6)


def test_chunks_of_rows_do_not_show() -> None:
    weight = np.random.default_rng(1).standard_normal((4096 + 3, 32)).astype(np.float32)
    packed, scales = quantize(weight, 32, 8)
    last, last_scales = quantize(weight[4090:], 32, 8)
    assert np.array_equal(packed[4090:], last)
    assert np.array_equal(scales[4090:], last_scales)


@pytest.mark.parametrize(("hidden", "block"), [(896, 128), (320, 64), (96, 32), (48, 16)])
def test_block_divides_hidden_size(hidden: int, block: int) -> None:
    assert block_size_for(hidden) == block


def test_no_block_fits() -> None:
    with pytest.raises(OptionError, match="100 is not a multiple of 16"):
        block_size_for(100)


def test_the_first_value_lies_lowest() -> None:
    assert pack(np.array([[1, 2, 15, 0]], np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert pack(np.array([[1, 200]], np.uint8), 8).tolist() == [[1, 200]]
