"""Recipes: how a compression trains, as TOML read strictly into frozen dataclasses.

The shipped ones lie in `recipes/`, every value with its evidence beside it. Unknown keys, missing keys and values that
cannot work are one error that names file and key.
"""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from sottovoce.errors import BundleError, OptionError
from sottovoce.runtime.parse import parse

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class BatchRecipe:
    """What one update sees: `tokens` of all processes together, prefixes included, drawn from `seed` and the step.

    `history`: the largest share of a row's codes that is heard as the student itself would say them; a row's own share
    lies evenly between 0 and that. 0 is the corpus as it is.
    """

    tokens: int
    seed: int
    history: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        _require(self.tokens > 0, "batch.tokens", self.tokens, "above 0")
        _require(self.seed >= 0, "batch.seed", self.seed, "at least 0")
        _require(0 <= self.history <= 1, "batch.history", self.history, "between 0 and 1")


@dataclass(frozen=True)
class TrainRecipe:
    """Optimiser and its schedule: AdamW, linear warm-up, cosine.

    `epochs` count only where `steps` is 0; `warmup` is a share of the steps, `final` a share of the peak rate `lr`;
    `clip` bounds the gradient's norm; a batch goes through in `accumulate` parts; `checkpoint_every` counts steps.
    """

    epochs: float
    steps: int
    lr: float
    warmup: float
    final: float
    betas: tuple[float, float]
    weight_decay: float
    clip: float
    precision: Precision
    accumulate: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name in ("lr", "clip", "accumulate", "checkpoint_every"):
            _require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        for name in ("warmup", "final"):
            _require(0 <= getattr(self, name) <= 1, f"train.{name}", getattr(self, name), "between 0 and 1")
        _require(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "at least 0 and below 1")
        _require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "at least 0")
        _require(
            self.steps > 0 or (self.steps == 0 and self.epochs > 0), "train.steps", self.steps, "above 0, or epochs"
        )


@dataclass(frozen=True)
class LossRecipe:
    """Weights of cross-entropy (`ce`) and of skew KL to the teacher (`kl`), and the latter's skew α (`skew`)."""

    ce: float
    kl: float
    skew: float

    def __post_init__(self) -> None:
        """Refuse a loss of nothing."""
        _require(min(self.ce, self.kl) >= 0 and self.ce + self.kl > 0, "loss", (self.ce, self.kl), "ce or kl above 0")
        _require(0 <= self.skew < 1, "loss.skew", self.skew, "at least 0 and below 1")


@dataclass(frozen=True)
class CurriculumRecipe:
    """How the window closes: from `start` tokens (or the longest utterance) while τ grows, over `share` of the steps.

    After that share the mask is the hard one of the final window; share 0 trains under it from the first step.
    """

    share: float
    start: int | Literal["longest"]
    tau_start: float
    tau_end: float

    def __post_init__(self) -> None:
        """Refuse a curriculum that opens, or has no logarithm."""
        _require(0 <= self.share <= 1, "curriculum.share", self.share, "between 0 and 1")
        _require(self.start == "longest" or self.start >= 2, "curriculum.start", self.start, "at least 2")
        taus = (self.tau_start, self.tau_end)
        _require(0 < self.tau_start <= self.tau_end, "curriculum.tau_start, tau_end", taus, "above 0, in rising order")


@dataclass(frozen=True)
class WindowRecipe:
    """`recipes/window.toml`: distilling a voice under a window (WAND)."""

    loss: LossRecipe
    curriculum: CurriculumRecipe
    batch: BatchRecipe
    train: TrainRecipe


Matching = Literal["dynamic", "static"]
Errors = Literal["relative", "absolute"]


@dataclass(frozen=True)
class PruneLossRecipe:
    """Weights of what a pruned voice learns: cross-entropy (`ce`), and what it imitates of the voice before.

    That is its distribution (`kl`, of skew α `skew`), its layers' outputs (`hidden`), its attention maps (`attention`)
    and its embeddings (`embedding`). `matching`: a layer's output imitates that of the last layer of the pruned span
    behind it (dynamic), or of the one it is a copy of (static), as its maps do. `errors`: squared errors of these as
    they are (absolute), or as shares of what they are errors of (relative).
    """

    ce: float
    kl: float
    hidden: float
    attention: float
    embedding: float
    skew: float
    matching: Matching
    errors: Errors

    def __post_init__(self) -> None:
        """Refuse a loss of nothing."""
        weights = (self.ce, self.kl, self.hidden, self.attention, self.embedding)
        _require(min(weights) >= 0 and self.ce + self.kl > 0, "loss", weights, "at least 0 each, ce or kl above 0")
        _require(0 <= self.skew < 1, "loss.skew", self.skew, "at least 0 and below 1")


@dataclass(frozen=True)
class PruneRecipe:
    """`recipes/prune.toml`: distilling a voice into some of its layers (SPADE)."""

    loss: PruneLossRecipe
    batch: BatchRecipe
    train: TrainRecipe


@dataclass(frozen=True)
class LoraRecipe:
    """How the backbone follows: `rank` of the low-rank matrices (0: it stays as it is), their `scale` (α / rank), and
    their peak rate `lr`."""

    rank: int
    scale: float
    lr: float

    def __post_init__(self) -> None:
        """Refuse what cannot be learned."""
        _require(self.rank >= 0, "lora.rank", self.rank, "at least 0")
        _require(self.scale > 0, "lora.scale", self.scale, "above 0")
        _require(self.lr > 0, "lora.lr", self.lr, "above 0")


@dataclass(frozen=True)
class PatchRecipe:
    """`recipes/patch.toml`: teaching a voice to speak in patches (TLDR); `train.lr` is that of the nets."""

    loss: LossRecipe
    lora: LoraRecipe
    batch: BatchRecipe
    train: TrainRecipe


def read_recipe(kind: Any, shipped: str, path: Path | None = None) -> Any:
    """The recipe of dataclass `kind` in the file `path`, or the one that ships as `recipes/{shipped}.toml`.

    Raises OptionError naming file and key where it cannot be read, is not TOML or is no such recipe.
    """
    source = path or resources.files("sottovoce.compress") / "recipes" / f"{shipped}.toml"
    where = str(path or source)
    try:
        return parse(kind, tomllib.loads(source.read_text(encoding="utf-8")), where)
    except BundleError as error:
        raise OptionError(str(error)) from None
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"{where} cannot be read: {error}") from None


def _require(ok: bool, key: str, value: object, what: str) -> None:
    """Raise OptionError for `key` unless `ok`."""
    if not ok:
        raise OptionError(f"{key} is {value}, it must be {what}")
