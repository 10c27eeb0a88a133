"""The matrices that a package really holds: decompressed by the interpreter, laid beside the checkpoint's.

Found by the names that conversion derives from the modules' own, and held to the rounding that their format promises.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.export.coreml.layout import DECODE
from sottovoce.export.mil.package import Package
from sottovoce.export.mil.runner import Runner
from sottovoce.models.decoder import Decoder

ALLOWED = {"fp16": 2.0**-10, "int8": 0.63 / 127, "int4": 0.51 / 7, "palette4": 0.6}
"""Gate: largest |written − checkpoint| of a weight, as a share of its row's largest: half a step and the rounding of
scales to fp16. Tables of 16 promise nothing of a single weight; there only a wrong matrix passes it."""

MISSING = 1e6
"""What a weight that is not there counts as."""

_PARTS = {"self_attn": "attention", "mlp": "mlp"}


@dataclass(frozen=True)
class Written:
    """A decoder with the package's matrices, the rows of its head, and the largest error of a weight.

    None where a package does not show its weights.
    """

    decoder: Decoder
    head: Tensor
    error: float | None


@torch.no_grad()
def load_written(package: Package, decoder: Decoder, head: Tensor) -> Written:
    """`decoder` and its kept `head` rows [V', d], with the matrices and biases of the package's decode function.

    One that is missing there counts as MISSING: nothing reads a projection whose cache is not written any more.
    """
    constants = Runner(package, DECODE).constants()
    found = {name.removeprefix("p_").split("_to_fp16")[0]: value for name, value in constants.items()}
    written, errors = copy.deepcopy(decoder), []
    parameters = dict(written.named_parameters())
    for name, ours in _names(written):
        if ours not in found:
            errors.append(MISSING)
            continue
        value = found[ours].reshape(parameters[name].shape)
        errors.append(_error(value, parameters[name]))
        parameters[name].copy_(value)
    pieces = [value for _, value in sorted(_pieces(found))]
    if sum(map(len, pieces)) != len(head):
        return Written(written, head, MISSING)
    rows = torch.cat(pieces).reshape(head.shape)
    return Written(written, rows, max(*errors, _error(rows, head)))


def _names(decoder: Decoder) -> Iterator[tuple[str, str]]:
    """Each matrix and bias of the layers, and what the package calls it."""
    for name, _ in decoder.named_parameters():
        if "_proj." in name:
            _, _, index, part, projection, kind = name.split(".")
            yield name, f"trunk_layers_{index}_{_PARTS[part]}_{projection.removesuffix('_proj')}_{kind}"


def _pieces(found: dict[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Pieces of the head by number."""
    for name, value in found.items():
        if name.startswith("head_pieces_"):
            yield int(name.split("_")[2]), value


def _error(written: Tensor, source: Tensor) -> float:
    """Largest difference, as a share of its row's largest value."""
    rows = source.reshape(len(source), -1) if source.dim() > 1 else source[None]
    difference = (written.reshape(rows.shape) - rows).abs().amax(1)
    return float((difference / rows.abs().amax(1).clamp(min=1e-8)).max())
