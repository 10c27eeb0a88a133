"""Does `decoder.mlpackage` say what torch says? Free running over several rounds of the ring, all functions, every
cache.

A conversion can drop a write without a word and still choose the same token for a while: so caches are compared as well
as logits, and slots that were never written hold garbage. Two comparisons: with torch on the weights that the package
holds, which is tight whatever their format, and with the voice, which says what the format costs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sottovoce.export.coreml.drive import CoreDriver
from sottovoce.export.coreml.written import ALLOWED, AnyDecoder, Written
from sottovoce.export.parity import MARGIN, Case
from sottovoce.models.decoder import Attention, Decoder
from sottovoce.models.masks import wand_mask

LOGIT_ERROR = 0.02
"""Gate: root mean square logit error over the logits' deviation, half precision against float32 on the same weights."""

CACHE_ERROR = 0.02
"""Gate: the same of keys and values, over their deviation in each buffer."""

AGREEMENT = {"fp16": 0.99, "int8": 0.97}
"""Gate: share of steps with a margin on which the package chooses as the voice does, tokens of speech fed to both."""


@dataclass(frozen=True)
class CoreReport:
    """Figures over all cases. Errors are root mean squares over the deviation of what is compared; `largest_error` is
    of a logit, `weight_error` see `written.ALLOWED` (None: weights cannot be read back), `psnr` in dB of logits against
    torch on the written weights.

    `top1` compares with the voice on all steps, `margin_top1` where its two best logits differ by more than 0.1.
    `different` lists the first greedy steps on which it chooses otherwise: case, step, ours, the voice's.
    """

    cases: tuple[str, ...]
    steps: int
    wraps: float
    weight_error: float | None
    logit_error: float
    largest_error: float
    psnr: float
    cache_error: float
    prefill_error: float
    voice_error: float
    top1: float
    margin_steps: int
    margin_top1: float
    different: tuple[tuple[str, int, int, int], ...]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """What torch makes of a case: logits [steps + 1, V'], and per cache [H, D, tokens] as it is once the prefix was
    read, and at the end."""

    logits: np.ndarray
    begun: list[np.ndarray]
    caches: list[np.ndarray]


Passes = list[tuple[Tensor, Tensor]]
"""Keys and values [B,H,T,D] of each pass through an attention."""

Reference = Callable[[AnyDecoder, Tensor, Case, Sequence[int], int], Side]
"""Torch over prefix and fed tokens under the WAND mask: decoder, its kept rows of the head, case, tokens, window."""


@dataclass(frozen=True)
class Outcome:
    """One case: the package's logits, torch's on the written weights and the voice's; errors of caches, largest one."""

    case: Case
    package: np.ndarray
    written: np.ndarray
    voice: np.ndarray
    prefill_error: float
    cache_error: float


@torch.no_grad()
def reference(decoder: AnyDecoder, head: Tensor, case: Case, fed: Sequence[int], window: int) -> Side:
    """The `Reference` of a voice of tokens."""
    assert isinstance(decoder, Decoder)
    ids = torch.tensor([[*case.prefix, *fed]])
    with projected(layer.self_attn for layer in decoder.model.layers) as made:
        hidden = decoder(ids, mask=wand_mask(ids.shape[1], len(case.prefix), window))
    caches = [part for layer in made for part in columns(layer[0])]
    return Side((hidden[0, len(case.prefix) - 1 :] @ head.T).numpy(), caches, caches)


@contextmanager
def projected(attentions: Iterable[Attention]) -> Iterator[list[Passes]]:
    """Keys and values [B,H,T,D] of every pass through each of `attentions`, while the body runs."""
    watched = list(attentions)
    made: list[Passes] = [[] for _ in watched]

    def watch(attention: Attention, passes: Passes) -> Callable[..., Any]:
        project = attention.project

        def watching(*args: Any) -> Any:
            q, k, v = project(*args)
            passes.append((k, v))
            return q, k, v

        return watching

    for attention, passes in zip(watched, made, strict=True):
        attention.project = watch(attention, passes)  # type: ignore[method-assign]
    try:
        yield made
    finally:
        for attention in watched:
            del attention.project


def columns(made: Iterable[Tensor]) -> list[np.ndarray]:
    """Keys and values [B,H,T,D] as [H,D,B·T], a key as a column."""
    return [part.permute(1, 3, 0, 2).flatten(2).numpy() for part in made]


def check_decoder(
    driver: CoreDriver,
    decoder: AnyDecoder,
    head: Tensor,
    written: Written,
    cases: Sequence[Case],
    ids: Sequence[int],
    refer: Reference = reference,
) -> list[Outcome]:
    """Drive the package and torch, as `refer` has it, over `cases`; `head` [V', d] are the voice's rows of `ids`."""
    return [_outcome(case, driver, decoder, head, written, ids, refer) for case in cases]


def _outcome(
    case: Case,
    driver: CoreDriver,
    decoder: AnyDecoder,
    head: Tensor,
    written: Written,
    ids: Sequence[int],
    refer: Reference,
) -> Outcome:
    """The package first, since it chooses the tokens of a greedy case."""
    driver.restart()
    logits = [driver.prefill(list(case.prefix))]
    after_prefill, held = driver.buffers(), driver.held()
    fed = list(case.tokens or ())
    for step in range(case.length):
        if case.tokens is None:
            fed.append(ids[int(logits[-1].argmax())])
        logits.append(driver.step(fed[step]))
    same = refer(written.decoder, written.head, case, fed, driver.window)
    voice = refer(decoder, head, case, fed, driver.window)
    prefill_error = _cache_error(after_prefill, same.begun, held)
    cache_error = _cache_error(driver.buffers(), same.caches, driver.held())
    return Outcome(case, np.stack(logits), same.logits, voice.logits, prefill_error, cache_error)


def _cache_error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], held: Sequence[Mapping[int, int]]) -> float:
    """The largest error of a buffer [1, H, D, S], slot → number; root mean square over the deviation."""
    errors = []
    for buffer, truth, places in zip(found, wanted, held, strict=True):
        if not places:  # nothing was read into it yet
            continue
        expected = truth[:, :, list(places.values())]
        difference = buffer[0].astype(np.float32)[:, :, list(places)] - expected
        errors.append(_rms(difference) / max(_rms(expected - expected.mean()), 1e-6))
    return float(np.max(errors))  # NaN stays NaN


def _rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def report(outcomes: Sequence[Outcome], written: Written, compression: str, window: int, trained: bool) -> CoreReport:
    """Figures and gates over all cases; agreement is a gate for a `trained` voice alone."""
    package, same, voice = (
        np.concatenate([getattr(o, side) for o in outcomes]) for side in ("package", "written", "voice")
    )
    error, deviation = _rms(package - same), max(float(same.std()), 1e-30)
    agree = package.argmax(-1) == voice.argmax(-1)
    best = np.sort(voice, axis=-1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > MARGIN
    found = CoreReport(
        cases=tuple(o.case.name for o in outcomes),
        steps=len(agree),
        wraps=max(o.case.length for o in outcomes) / window,
        weight_error=written.error,
        logit_error=error / deviation,
        largest_error=float(np.abs(package - same).max()),
        psnr=psnr(error, float(np.abs(same).max())),
        cache_error=float(np.max([o.cache_error for o in outcomes])),
        prefill_error=float(np.max([o.prefill_error for o in outcomes])),
        voice_error=_rms(package - voice) / max(float(voice.std()), 1e-30),
        top1=float(agree.mean()),
        margin_steps=int(clear.sum()),
        margin_top1=float(agree[clear].mean()) if clear.any() else 1.0,
        different=tuple(_different(outcomes)),
        failures=(),
    )
    return replace(found, failures=tuple(_failures(found, compression, trained)))


def psnr(error: float, peak: float) -> float:
    """Peak signal over root mean square noise, dB; 200 where there is none."""
    return float(min(200.0, 20 * np.log10(peak / error))) if error > 0 else 200.0


def _different(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, int, int, int]]:
    """The first steps of greedy cases on which the package chooses otherwise, at most three per case."""
    for outcome in (o for o in outcomes if o.case.tokens is None):
        ours, theirs = outcome.package.argmax(-1), outcome.voice.argmax(-1)
        for step in np.flatnonzero(ours != theirs)[:3]:
            yield outcome.case.name, int(step), int(ours[step]), int(theirs[step])


def _failures(found: CoreReport, compression: str, trained: bool) -> Iterator[str]:
    """A line per missed gate; written so that NaN misses it too."""
    gates = [
        (found.logit_error, LOGIT_ERROR, "logits differ from torch on the written weights by"),
        (found.prefill_error, CACHE_ERROR, "caches after prefill differ from torch's by"),
        (found.cache_error, CACHE_ERROR, "caches at the end differ from torch's by"),
    ]
    if found.weight_error is not None:
        told = "a written weight differs from the checkpoint's by"
        gates.insert(0, (found.weight_error, ALLOWED[compression], told))
    for value, allowed, text in gates:
        if not value <= allowed:
            yield f"{text} {value:.2g}, at most {allowed:.2g} is allowed"
    wanted = AGREEMENT.get(compression)
    if trained and wanted and not found.margin_top1 >= wanted:
        yield f"the package chooses as the voice on {found.margin_top1:.2%} of clear steps, {wanted:.0%} are asked for"
