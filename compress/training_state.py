"""Where a training stands, in one safetensors file: weights being trained, optimiser's moments, step and settings.

Replaced whole, so that a process killed at any moment leaves the last complete one. Nothing in it is a pickle.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sottovoce.errors import OptionError, VoiceError
from sottovoce.models.checkpoint import write_atomic
from sottovoce.runtime.strict_json import decode_json

STATE = "state.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """State after `step` updates: `weights` by parameter name, `moments` by (name, key), `scaler` of fp16 or {}."""

    step: int
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    moments: dict[tuple[str, str], Tensor]
    scaler: dict[str, Any]

    @classmethod
    def of(
        cls, step: int, settings: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any
    ) -> "TrainingState":
        """The state of `module`, whose `trainable` parameters `optimizer` moves, and of a GradScaler."""
        weights = trainable(module)
        moments = {(n, key): value for n, p in weights.items() for key, value in optimizer.state.get(p, {}).items()}
        return cls(step, settings, dict(weights), moments, scaler.state_dict() if scaler else {})

    def save(self, folder: Path) -> None:
        """Replace the state in `folder`; raises OutputError where the disk refuses."""
        tensors = {f"weight/{name}": value for name, value in self.weights.items()}
        tensors |= {f"moment/{key}/{name}": value for (name, key), value in self.moments.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        notes = {"step": str(self.step), "settings": json.dumps(self.settings), "scaler": json.dumps(self.scaler)}
        write_atomic(folder / STATE, lambda path: save_file(tensors, path, metadata=notes))

    @classmethod
    def load(cls, folder: Path) -> "TrainingState | None":
        """The state in `folder`, None where there is none yet; raises VoiceError where it is damaged."""
        path = folder / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata()
                named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            step, settings, scaler = (decode_json(notes[key]) for key in ("step", "settings", "scaler"))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise VoiceError(f"{path} is damaged: {error}; remove {folder} to start again") from None
        weights = {name.removeprefix("weight/"): v for name, v in named.items() if name.startswith("weight/")}
        parts = {tuple(name.split("/", 2)[1:]): v for name, v in named.items() if name.startswith("moment/")}
        return cls(step, settings, weights, {(name, key): v for (key, name), v in parts.items()}, scaler)

    def check(self, settings: dict[str, Any], folder: Path) -> None:
        """Raise OptionError where the run that left this state had other settings, naming the first that differs."""
        asked = decode_json(json.dumps(settings))
        if changed := sorted(k for k in {*asked, *self.settings} if asked.get(k) != self.settings.get(k)):
            key = changed[0]
            raise OptionError(
                f"{folder}: that run had {key} {self.settings.get(key)}, this one has {asked.get(key)}: "
                "repeat its options to resume it, or choose another --output"
            )

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Put weights, moments and scale back where `of` took them from."""
        parameters = trainable(module)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.weights[name])
        moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        place = {id(parameter): number for number, parameter in enumerate(moved)}
        slots: dict[int, dict[str, Tensor]] = {}
        for (name, key), value in self.moments.items():
            slots.setdefault(place[id(parameters[name])], {})[key] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        if scaler and self.scaler:
            scaler.load_state_dict(self.scaler)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, the frozen ones left out."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
