"""The training loop with a toy objective: schedule, accumulation, resuming, and everything that can stop it."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sottovoce.compress import training_state
from sottovoce.compress.corpus.batches import IGNORED, Batch
from sottovoce.compress.loop import Objective, Run, learning_rate, open_accelerator, train
from sottovoce.compress.metrics import FILE, PLOT, read_rows
from sottovoce.compress.recipe import TrainRecipe
from sottovoce.compress.training_state import STATE, TrainingState
from sottovoce.errors import OptionError, OutputError, TrainingError, VoiceError

RECIPE = TrainRecipe(1.0, 0, 0.05, 0.2, 0.0, (0.9, 0.99), 0.01, 1.0, "fp32", 1, 3)
STEPS = 8


class Guess(Objective):
    """Guesses the next of five ids from the last, beside a frozen parameter; `nan_at` spoils a step's loss."""

    def __init__(self, nan_at: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 5)
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.nan_at = nan_at

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(
            self.table(batch.ids).flatten(0, 1), batch.targets.flatten(), reduction="sum"
        )
        return {"loss": loss * (float("nan") if step == self.nan_at else 1.0)}

    def schedule(self, step: int) -> dict[str, float | None]:
        return {"width": 10.0 - step, "tau": None if step > 3 else 10.0**step}


class Source:
    """Six rows per step, of different lengths."""

    def batch(self, step: int, rank: int, world: int) -> Batch:
        ids = torch.randint(0, 5, (6, 9), generator=torch.Generator().manual_seed(step))
        targets = ids.roll(-1, 1)
        for row in range(6):
            targets[row, 3 + row :] = IGNORED
        rows = slice(rank, None, world)
        return Batch(ids[rows], targets[rows], torch.ones(6)[rows], torch.full((6,), 9)[rows])


def run(
    folder: Path,
    steps: int = STEPS,
    recipe: TrainRecipe = RECIPE,
    nan_at: int = -1,
    resume: bool = False,
    seed: int = 1,
) -> Guess:
    """Train a guess; `seed` stands for what makes runs differ."""
    objective = Guess(nan_at)
    job = Run(folder, steps, {"seed": seed}, resume)
    train(objective, Source(), recipe, job, open_accelerator(recipe.precision))
    return objective


def state_of(folder: Path) -> TrainingState:
    """The state that a run left."""
    state = TrainingState.load(folder)
    assert state is not None
    return state


def weights(objective: Guess) -> Tensor:
    """What was learned."""
    return objective.table.weight.detach()


def test_learning_rate() -> None:
    recipe = replace(RECIPE, lr=1.0, warmup=0.1, final=0.2)
    rates = [learning_rate(step, 100, recipe) for step in range(100)]
    assert rates[:2] == [0.1, 0.2] and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6) and rates[99] == pytest.approx(0.2, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_it_learns_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective = run(tmp_path, steps=60)
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[0]["loss"] == pytest.approx(mean_loss(Guess(), 0), rel=1e-5)
    assert mean_loss(objective, 0) < mean_loss(Guess(), 0)
    assert rows[0]["tokens"] == 33 and rows[2]["width"] == 8.0 and rows[3]["tau"] == 1000.0 and rows[4]["tau"] is None
    assert all(row["memory_mb"] > 10 for row in rows)
    assert torch.equal(objective.fixed, torch.ones(3))
    assert (tmp_path / PLOT).read_bytes().startswith(b"\x89PNG")
    assert "step 60/60: loss" in capsys.readouterr().err


def mean_loss(objective: Guess, step: int) -> float:
    """Loss per token of the whole batch of `step`."""
    batch = Source().batch(step, 0, 1)
    return float(objective(batch, 99)["loss"].detach() / (batch.targets >= 0).sum())


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_batch_in_parts_is_the_same_batch(tmp_path: Path, accumulate: int) -> None:
    whole, parts = run(tmp_path / "a"), run(tmp_path / "b", recipe=replace(RECIPE, accumulate=accumulate))
    torch.testing.assert_close(weights(whole), weights(parts))
    losses = [[row["loss"] for row in read_rows(tmp_path / name)] for name in "ab"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("nan_at", [1, 4, 7])
def test_nan_stops_and_the_last_good_state_is_resumed_to_the_same_end(tmp_path: Path, nan_at: int) -> None:
    with pytest.raises(TrainingError, match=f"step {nan_at + 1}: the loss is nan") as caught:
        run(tmp_path / "a", nan_at=nan_at)
    kept = TrainingState.load(tmp_path / "a")
    assert (kept.step if kept else 0) == nan_at // 3 * 3
    assert (str(tmp_path / "a") in str(caught.value)) == (kept is not None)
    if kept:
        assert all(value.isfinite().all() for value in (*kept.weights.values(), *kept.moments.values()))
    resumed = run(tmp_path / "a", resume=True)
    assert torch.equal(weights(resumed), weights(run(tmp_path / "b")))
    rows = [[{**row, "seconds": 0, "memory_mb": 0} for row in read_rows(tmp_path / name)] for name in "ab"]
    assert rows[0] == rows[1]


def test_a_line_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
    (tmp_path / FILE).write_text("".join(lines[:7]) + lines[7][:20])
    run(tmp_path, resume=True)
    assert [row["step"] for row in read_rows(tmp_path)] == list(range(1, 8))


def test_a_run_is_not_started_over_another(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(OptionError, match="at step 8: --resume"):
        run(tmp_path)
    with pytest.raises(OptionError, match="that run had seed 1, this one has 2"):
        run(tmp_path, resume=True, seed=2)


def test_a_state_knows_only_what_is_trained(tmp_path: Path) -> None:
    run(tmp_path)
    state = state_of(tmp_path)
    assert set(state.weights) == {"table.weight"}
    assert {key for _, key in state.moments} == {"step", "exp_avg", "exp_avg_sq"}


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:50])
    with pytest.raises(VoiceError, match=r"state\.safetensors is damaged.*remove"):
        run(tmp_path, resume=True)


def test_a_full_disk_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(tensors: object, path: Path, metadata: dict[str, str]) -> None:
        if json.loads(metadata["step"]) > 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata=metadata)

    save = training_state.save_file
    monkeypatch.setattr(training_state, "save_file", fill)
    with pytest.raises(OutputError, match="No space left"):
        run(tmp_path)
    assert state_of(tmp_path).step == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, PLOT, STATE]


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(OptionError, match=r"train\.precision fp16"):
        run(tmp_path, recipe=replace(RECIPE, precision="fp16"))


def test_a_step_that_fp16_skips_leaves_the_metrics_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    accelerator = open_accelerator("fp32")
    accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
    train(Guess(), Source(), RECIPE, Run(tmp_path, 3, {}), accelerator)
    assert [(row["step"], row["gradient"]) for row in read_rows(tmp_path)] == [(1, None), (2, None), (3, None)]


def test_bf16_learns_too(tmp_path: Path) -> None:
    objective = run(tmp_path, steps=30, recipe=replace(RECIPE, precision="bf16"))
    assert objective.table.weight.dtype == torch.float32
    assert mean_loss(objective, 0) < mean_loss(Guess(), 0)


class Several(Guess):
    """Learns `scale`, neither its first parameter nor its last, at half the rate."""

    def __init__(self, nan_at: int = -1) -> None:
        super().__init__(nan_at)
        self.middle = nn.Parameter(torch.zeros(5))
        self.scale = nn.Parameter(torch.ones(5, 5))

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        logits = self.table(batch.ids) @ self.scale + self.middle
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
        return {"loss": loss * (float("nan") if step == self.nan_at else 1.0)}

    def share(self, name: str) -> float:
        return 0.5 if name == "scale" else 1.0


def test_rates_of_their_own_through_a_stop(tmp_path: Path) -> None:
    """Adam's first step is the rate itself; what is restored is the moments of the right parameters."""

    def several(folder: str, nan_at: int = -1, steps: int = STEPS) -> Several:
        objective = Several(nan_at)
        train(objective, Source(), RECIPE, Run(tmp_path / folder, steps, {}, True), open_accelerator("fp32"))
        return objective

    once = several("once", steps=1)
    assert float((once.scale.detach() - 1).abs().max()) == pytest.approx(RECIPE.lr / 2, rel=2e-2)
    whole = several("whole").state_dict()
    with pytest.raises(TrainingError):
        several("stopped", nan_at=5)
    resumed = several("stopped").state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert read_rows(tmp_path / "whole")[-1]["lr"] == learning_rate(STEPS - 1, STEPS, RECIPE)
