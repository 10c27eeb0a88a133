"""Round-to-nearest block quantization in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Written here rather than taken from `onnxruntime.quantization`: importing that module reconfigures logging and needs
onnx_ir, and the arithmetic is these few lines (same error to within 1 %; a test holds it to the operators' definition).
"""

import numpy as np

from sottovoce.errors import OptionError

BLOCK_SIZES = (128, 64, 32, 16)
"""What the engine's kernels accept, best first: larger blocks are faster and smaller."""

PER_CHANNEL = 0
"""In a block's place: one scale for a whole row, an output channel. ONNX's `block_size` says it so too."""

_ROWS = 4096


def block_size_for(hidden_size: int) -> int:
    """The largest block that divides the hidden size, so that embedding and head can be the same bytes.

    Raises OptionError where none does.
    """
    for block in BLOCK_SIZES:
        if hidden_size % block == 0:
            return block
    raise OptionError(f"hidden_size {hidden_size} is not a multiple of {BLOCK_SIZES[-1]}: use --weights fp32")


def quantized_shapes(rows: int, columns: int, block_size: int, bits: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the packed values [N, K/block, block·bits/8] and of the scales [N, K/block], K rounded up."""
    blocks = -(-columns // block_size)
    return (rows, blocks, block_size * bits // 8), (rows, blocks)


def quantize(weight: np.ndarray, block_size: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight [N, K] float32 → packed uint8 [N, K/block, block·bits/8] and scales float32 [N, K/block].

    Around the operators' default zero point 2^(bits−1); the last block of a row is padded with zeros. 8 bits: scale =
    max|w| / 127 per block. 4 bits: the weight furthest from 0 becomes −8 steps, so that all sixteen values are used;
    what lies further than 7 steps on the other side is clipped, by one step at most (as llama.cpp's Q4_0 does).
    """
    packed_shape, scale_shape = quantized_shapes(len(weight), weight.shape[1], block_size, bits)
    packed, scales = np.empty(packed_shape, np.uint8), np.empty(scale_shape, np.float32)
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        packed[rows], scales[rows] = _quantize_rows(weight[rows], block_size, bits)
    return packed, scales


def rounded(weight: np.ndarray, block_size: int, bits: int) -> np.ndarray:
    """Weight [N, K] float32 as `quantize` would give it back."""
    steps, scales = _steps(weight, block_size, bits)
    return (steps * scales[..., None]).reshape(len(weight), -1)[:, : weight.shape[1]]


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Values below 2^bits, uint8 [.., n] → bytes [.., n·bits/8], the first value in a byte's lowest bits."""
    parts = values.reshape(*values.shape[:-1], -1, 8 // bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(parts << shifts, axis=-1)


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes [.., n] → the values in them, uint8 [.., n·8/bits]: what `pack` was given."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[..., None] >> shifts & np.uint8(2**bits - 1)).reshape(*packed.shape[:-1], -1)


def _quantize_rows(weight: np.ndarray, block_size: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """`quantize` for a few rows at a time, which bounds what lies in memory."""
    steps, scales = _steps(weight, block_size, bits)
    return pack((steps + 2 ** (bits - 1)).astype(np.uint8), bits), scales


def _steps(weight: np.ndarray, block_size: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole steps [N, K/block, block] float32 around 0, and scales [N, K/block]."""
    zero = 2 ** (bits - 1)
    padding = -weight.shape[1] % block_size
    blocks = np.pad(weight, ((0, 0), (0, padding))).reshape(len(weight), -1, block_size)
    furthest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    scales = np.abs(furthest) / np.float32(zero - 1) if bits == 8 else furthest / np.float32(-zero)
    steps = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None])
    return np.minimum(steps, zero - 1), scales
