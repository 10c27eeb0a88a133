"""The matrices that a package really holds: decompressed by the interpreter, laid beside the checkpoint's.

Found by the names that conversion derives from the modules' own, and held to the rounding that their format promises.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.export.coreml.layout import DECODE
from sottovoce.export.coreml.patch_layout import COMPRESS, EXTRACT
from sottovoce.export.mil.package import Package
from sottovoce.export.mil.runner import Runner
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.decoder import PatchDecoder

AnyDecoder = Decoder | PatchDecoder

ALLOWED = {"fp16": 2.0**-10, "int8": 0.63 / 127, "int4": 0.51 / 7, "palette4": 0.6}
"""Gate: largest |written − checkpoint| of a weight, as a share of its row's largest: half a step and the rounding of
scales to fp16. Tables of 16 promise nothing of a single weight; there only a wrong matrix passes it."""

MISSING = 1e6
"""What a weight that is not there counts as."""

_PARTS = {"self_attn": "attention", "mlp": "mlp"}

_CROSS = {"compressor": {"q": COMPRESS, "o": COMPRESS, "k": COMPRESS, "v": COMPRESS}}
_CROSS["extractor"] = {"q": EXTRACT, "o": EXTRACT, "k": DECODE, "v": DECODE}
"""Which function of a patch voice's package holds a projection that looks across."""


@dataclass(frozen=True)
class Written:
    """A decoder with the package's matrices, the rows of its head, and the largest error of a weight.

    None where a package does not show its weights.
    """

    decoder: AnyDecoder
    head: Tensor
    error: float | None


@torch.no_grad()
def load_written(package: Package, decoder: AnyDecoder, head: Tensor) -> Written:
    """`decoder` and its kept `head` rows [V', d], with the matrices and biases of the package's functions.

    One that is missing there counts as MISSING: nothing reads a projection whose cache is not written any more.
    """
    patches = isinstance(decoder, PatchDecoder)
    found = {name: _constants(package, name) for name in (DECODE, COMPRESS, EXTRACT)[: 3 if patches else 1]}
    written, errors = copy.deepcopy(decoder), []
    parameters = dict(written.named_parameters())
    for name, function, ours in _names(written):
        if ours not in found[function]:
            errors.append(MISSING)
            continue
        value = found[function][ours].reshape(parameters[name].shape)
        errors.append(_error(value, parameters[name]))
        parameters[name].copy_(value)
    pieces = [value for _, value in sorted(_pieces(found[EXTRACT if patches else DECODE]))]
    if sum(map(len, pieces)) != len(head):
        return Written(written, head, MISSING)
    rows = torch.cat(pieces).reshape(head.shape)
    return Written(written, rows, max(*errors, _error(rows, head)))


def _constants(package: Package, function: str) -> dict[str, Tensor]:
    """Weights of a function by what the module called them, dots as underscores; one with states is `inner` there."""
    constants = Runner(package, function).constants()
    names = {name: name.removeprefix("p_").removeprefix("inner_").split("_to_fp16")[0] for name in constants}
    return {names[name]: value for name, value in constants.items()}


def _names(decoder: AnyDecoder) -> Iterator[tuple[str, str, str]]:
    """Each matrix and bias of the layers, the function that holds it, and what that calls it."""
    for name, _ in decoder.named_parameters():
        *path, last, kind = name.removeprefix("backbone.").split(".")
        short = f"{last.removesuffix('_proj')}_{kind}"
        match path:
            case ["model", "layers", index, part] if last.endswith("_proj"):
                yield name, DECODE, f"trunk_layers_{index}_{_PARTS[part]}_{short}"
            case [net, "layers", index, "tokens", part] if last.endswith("_proj"):
                yield name, COMPRESS if net == "compressor" else EXTRACT, f"tokens_{index}_{_PARTS[part]}_{short}"
            case [net, "layers", index, "cross", "attention"]:
                yield name, *_across(net, index, last[0], short)
            case ["extractor", "layers", index]:
                yield name, DECODE, f"told_slots_{index}_{kind}"
            case ["extractor"] if last in ("speaker", "fuse"):
                yield name, DECODE, f"told_{short}"


def _across(net: str, index: str, projection: str, short: str) -> tuple[str, str]:
    """The function, and the name there, of a matrix that makes queries of one sequence or keys of another."""
    function, told = _CROSS[net][projection], net == "extractor"
    where = "look" if projection in "qo" else "told_memory" if told else "memory"
    return function, f"{where}_{index}_{short}"


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
