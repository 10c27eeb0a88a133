"""Between this package's parameters, one per matrix for every family, and the tensors of Hugging Face's files."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.models.family import Traits

_FUSED = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Place:
    """Where a parameter lies: third `third` of tensor `name` along its last axis (None: all), maybe transposed."""

    name: str
    third: int | None = None
    transposed: bool = False

    def take(self, tensor: Tensor) -> Tensor:
        """The parameter out of the file's `tensor`, a view."""
        part = tensor if self.third is None else tensor.chunk(3, dim=-1)[self.third]
        return part.T if self.transposed else part


def place(name: str, traits: Traits) -> Place:
    """Where the parameter called `name` here lies in a family's files."""
    parts = name.split(".")
    there = ".".join(traits.names.get(part, part) for part in parts)
    third = _FUSED.index(parts[-2]) if traits.conv1d and parts[-2] in _FUSED else None
    return Place(there, third, traits.conv1d and name.endswith("_proj.weight"))


def pack(state: Mapping[str, Tensor], traits: Traits) -> dict[str, Tensor]:
    """A decoder's state dict as the tensors of HF's files; queries, keys and values come in that order."""
    pieces: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        where = place(name, traits)
        pieces.setdefault(where.name, []).append(tensor.T if where.transposed else tensor)
    return {name: torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0] for name, parts in pieces.items()}


def unpack(tensors: Mapping[str, Tensor], names: list[str], traits: Traits) -> dict[str, Tensor]:
    """The parameters `names` out of the tensors of HF's files: what `pack` undoes."""
    places = {name: place(name, traits) for name in names}
    return {name: where.take(tensors[where.name]) for name, where in places.items()}
