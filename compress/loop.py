"""The training loop that every compression shares: it knows batches and sums of losses, not what is being learned.

One process or several (`torchrun`, or `accelerate launch` on GPUs), the same global batch and the same arithmetic:
losses are summed, and divided by the tokens of the whole batch. What is learned after N steps does not depend on kills
between.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.memory import peak_memory
from sottovoce.compress.metrics import Metrics
from sottovoce.compress.recipe import Precision, TrainRecipe
from sottovoce.compress.training_state import TrainingState, trainable
from sottovoce.errors import OptionError, TrainingError


class Source(Protocol):
    """Where batches come from: the global batch of a step, the same for any number of parts it is split into."""

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Part `rank` of `world` of the batch of `step`: at least one row, which may have no targets."""


class Objective(nn.Module):
    """What is minimised: holds the student, whose parameters ask for gradients, and whatever else is needed, frozen."""

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Scalars float32 summed over the batch's targets: `loss`, which is minimised, and others to be shown."""
        raise NotImplementedError

    def share(self, name: str) -> float:
        """What the parameter `name` learns at, as a share of the recipe's rate."""
        return 1.0

    def schedule(self, step: int) -> Mapping[str, float | None]:
        """What else changes with the step, to be shown; None where it is infinite."""
        raise NotImplementedError


@dataclass(frozen=True)
class Run:
    """One training: `steps` in all, its files in `folder`; `settings` tell whether a state found there is of this run.

    Settings are values of JSON by name. A state is gone on from with `resume`, and refused without.
    """

    folder: Path
    steps: int
    settings: dict[str, Any]
    resume: bool = False


def open_accelerator(precision: Precision) -> Accelerator:
    """This process's place among the others, on a CUDA device where there is one.

    Raises OptionError where the device cannot compute in `precision`.
    """
    cpu = not torch.cuda.is_available()
    if cpu and precision == "fp16":
        raise OptionError("train.precision fp16 needs a CUDA device: take bf16 or fp32")
    try:
        return Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)
    except ValueError as error:
        raise OptionError(f"train.precision {precision}: {error}") from None


def train(objective: Objective, source: Source, recipe: TrainRecipe, run: Run, accelerator: Accelerator) -> None:
    """Train `objective` in place for `run.steps`, from the state in `run.folder` where there is one.

    Raises TrainingError where loss or gradient is no number: nothing is learned from it, and the last state stays.
    OptionError for a state that may not be resumed, VoiceError for a damaged one, OutputError where the disk refuses.
    """
    state = _find_state(run)
    if accelerator.is_main_process:
        run.folder.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(objective, source, recipe, run, accelerator, state)
    first = state.step if state else 0
    with Metrics(run.folder, first, run.steps) if accelerator.is_main_process else nullcontext() as metrics:
        for step in range(first, run.steps):
            row = trainer.update(step)
            done = step + 1
            if metrics:
                metrics.row({"step": done, **row, **objective.schedule(step), **_memory(accelerator.device)})
            if done % recipe.checkpoint_every == 0 or done == run.steps:
                trainer.save(done)


def learning_rate(step: int, steps: int, recipe: TrainRecipe) -> float:
    """Rate of update `step` (0..steps-1): linear up to the peak over the warm-up, then a cosine down to its end."""
    warm = round(recipe.warmup * steps)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    falling = 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
    return recipe.lr * (recipe.final + (1 - recipe.final) * falling)


def _groups(objective: Objective) -> list[dict[str, Any]]:
    """What the optimiser moves, a group for each share of the rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trainable(objective).items():
        groups.setdefault(objective.share(name), []).append(parameter)
    return [{"params": parameters, "share": share} for share, parameters in groups.items()]


def _memory(device: torch.device) -> dict[str, float]:
    """The peak so far of this process, in MB, where the system tells."""
    peak = peak_memory(device)
    return {} if peak is None else {"memory_mb": round(peak / 1e6, 1)}


def _find_state(run: Run) -> TrainingState | None:
    """The state to go on from; OptionError where it is another run's, or `resume` was not asked for."""
    state = TrainingState.load(run.folder)
    if state is None:
        return None
    if not run.resume:
        raise OptionError(f"{run.folder} holds a run at step {state.step}: --resume to go on, or remove the folder")
    state.check(run.settings, run.folder)
    return state


class _Trainer:
    """The objective, its optimiser and the processes, one update at a time."""

    def __init__(
        self,
        objective: Objective,
        source: Source,
        recipe: TrainRecipe,
        run: Run,
        accelerator: Accelerator,
        state: TrainingState | None,
    ) -> None:
        self.source, self.recipe, self.run, self.accelerator = source, recipe, run, accelerator
        self.objective = objective.to(accelerator.device)
        self.parameters = list(trainable(objective).values())
        betas = (recipe.betas[0], recipe.betas[1])
        self.plain = torch.optim.AdamW(_groups(objective), recipe.lr, betas, weight_decay=recipe.weight_decay)
        if state:
            state.restore(objective, self.plain, accelerator.scaler)
        self.model, self.optimizer = accelerator.prepare(objective, self.plain)

    def update(self, step: int) -> dict[str, float | None]:
        """One step of the optimiser; mean losses per token over all processes, and what the step was made of."""
        rate = learning_rate(step, self.run.steps, self.recipe)
        for group in self.plain.param_groups:
            group["lr"] = rate * group["share"]
        parts = self._parts(step)
        tokens = int(self._over_all(sum((part.targets >= 0).sum() for part in parts)))
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with self._no_sync(index + 1 < len(parts)):
                losses = self.model(part, step)
                # Gradients are averaged over processes; what is wanted is their sum over all tokens, divided once.
                self.accelerator.backward(losses["loss"] * (self.accelerator.num_processes / tokens))
            sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
        means = dict(zip(sums, (self._over_all(torch.stack(list(sums.values()))) / tokens).tolist(), strict=True))
        norm = self._step(step, means["loss"])
        shown = norm if math.isfinite(norm) else None  # JSON knows no infinity
        return {**means, "lr": rate, "gradient": shown, "tokens": tokens}

    def save(self, done: int) -> None:
        """Replace the state in the run's folder."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            TrainingState.of(done, self.run.settings, self.objective, self.plain, scaler).save(self.run.folder)
        self.accelerator.wait_for_everyone()

    def _parts(self, step: int) -> list[Batch]:
        """This process's share of the step's batch, in as many parts as are computed one after another."""
        rank, world, count = self.accelerator.process_index, self.accelerator.num_processes, self.recipe.accumulate
        parts = [self.source.batch(step, index * world + rank, count * world) for index in range(count)]
        return [part.to(self.accelerator.device) for part in parts]

    def _step(self, step: int, loss: float) -> float:
        """Move the weights; returns the gradient's norm before clipping."""
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.recipe.clip))
        # fp16's scaler skips a step whose gradient overflows, and lowers its scale.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.accelerator.scaler):
            kept = TrainingState.load(self.run.folder)
            mends = f"; the state after step {kept.step} is kept in {self.run.folder}" if kept else ""
            raise TrainingError(
                f"step {step + 1}: the loss is {loss}, the gradient's norm {norm}: start again with a lower train.lr, "
                f"or in fp32{mends}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _over_all(self, value: Any) -> Tensor:
        """Sum of a tensor over all processes."""
        return self.accelerator.reduce(value, "sum")

    def _no_sync(self, wanted: bool) -> AbstractContextManager[None]:
        """Leave the exchange of gradients to a later part."""
        return self.accelerator.no_sync(self.model) if wanted else nullcontext()
