"""Does a quantized graph do what its own weights say? Tight where comparing with the checkpoint cannot be.

Three gates: the written matrices are the checkpoint's, rounded; the graph, its integer kernels told to use float32,
says what torch says with the written matrices; and as shipped, integer kernels and all, it stays near that. Over an
int8 cache torch rounds keys and values by the scales that were written, and a fourth gate holds what that costs.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sottovoce.export.decoder import DecoderParts
from sottovoce.export.head import ids_of
from sottovoce.export.parity import (
    HALF_ERROR,
    Case,
    Sides,
    Source,
    TokenSides,
    compare,
    random_cases,
    step_tokens,
    wrap_failure,
    wraps_of,
)
from sottovoce.export.written import WrittenWeights, load_written, with_head_of
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import WeightFormat

WEIGHT_ERROR: dict[WeightFormat, float] = {"fp32": 0.0, "fp16": 0.501, "int8": 0.501, "int4": 1.001}
"""Gate: largest |written − checkpoint| of any weight in steps of its block. Rounding to nearest promises a half; the
sixteen values of 4 bits reach 8 steps to one side and 7 to the other, where a whole step may be cut off."""

FLOAT_ERROR = 1e-4
"""Gate: largest logit error over the logits' deviation, float32 arithmetic on the written matrices. Rounding leaves
3e-6 to 8e-6 there, with two layers as with twenty-four; two swapped matrices in the twelfth of those leave 0.14."""

INTEGER_ERROR = 0.15
"""Gate: root mean square error over the logits' deviation, as shipped. The kernels round activations to 8 bits per
block (`accuracy_level` 4), which is no error of the graph. Seen with random weights: 0.024–0.037 on two layers,
0.014–0.039 on twenty-four; a negated last matrix of twenty-four gives 0.12–0.29, a swapped pair in the middle
0.03–0.17. So this one alone could not tell faults from rounding: it catches kernels that break down, and FLOAT_ERROR
the rest."""

ROUNDED_ERROR = 0.05
"""FLOAT_ERROR over an int8 cache: a value on the edge of two steps may fall to either side, which moves what follows.
Seen with random weights, two to twelve layers: 2e-6 to 1.5e-2."""

CACHE_ERROR = 0.15
"""Gate: root mean square error over the logits' deviation that an int8 cache brings in, in torch. Seen with random
weights, two to twelve layers: 0.008–0.062."""

FLOAT_STEPS = 12
"""Steps per case with float32 arithmetic, which is several times slower."""


@dataclass(frozen=True)
class WrittenReport:
    """`weight_error` in steps, `float_error` (largest) and `integer_error` (rms) as shares of the logits' deviation.

    `cache_error` (rms) is what rounding keys and values does, None where they are floats. `wraps` is how often the ring
    went round in the longest case; `failures` words each missed gate.
    """

    cases: tuple[str, ...]
    steps: int
    wraps: float
    weight_error: float
    float_error: float
    integer_error: float
    cache_error: float | None
    failures: tuple[str, ...]


def check_written(
    source: Source,
    folder: Path,
    parts: DecoderParts,
    cases: Sequence[Case] | None = None,
    *,
    threads: int = 1,
    sides: Sides | None = None,
) -> WrittenReport:
    """Compare the quantized graph in `folder` with torch on the matrices read back from it (`random_cases` by default).

    Raises nothing for a bad graph: its failures are in the report.
    """
    cases = random_cases(parts) if cases is None else cases
    plain = sides or TokenSides(folder, parts, threads)
    decoder = copy.deepcopy(source) if isinstance(source, Decoder) else source.load()
    decoder = with_head_of(folder / parts.decoder, decoder) if isinstance(decoder, Decoder) else decoder
    weight_error = load_written(decoder, folder / parts.decoder, ids_of(parts.head.ids))
    unrounded, sides = None, plain
    if parts.cache.groups[0].dtype == "int8":
        scales = WrittenWeights(folder / parts.decoder).scales(parts.cache.groups[0].layers)
        sides = TokenSides(folder, parts, threads, scales)
    compared = compare(cases, sides, decoder)
    if sides is not plain:
        unrounded = [plain.expect(decoder, found.case.prefix, found.fed) for found in compared]
    shipped, expected = (np.concatenate([getattr(c, side) for c in compared]) for side in ("graph", "torch"))
    deviation = max(float(expected.std()), 1e-30)
    del decoder  # its weights need not lie beside those of the second session
    exact, errors = sides.driver(exact=True), []
    for found in compared:
        fed = found.fed[: min(found.case.length, FLOAT_STEPS * step_tokens(parts))]
        logits = sides.drive(replace(found.case, tokens=fed), exact)[0]
        errors.append(np.abs(logits - found.torch[: len(logits)]).max())
    report = WrittenReport(
        cases=tuple(case.name for case in cases),
        steps=len(shipped),
        wraps=wraps_of(cases, parts),
        weight_error=weight_error,
        float_error=float(np.max(errors)) / deviation,
        integer_error=_rms(shipped - expected) / deviation,
        cache_error=None if unrounded is None else _rms(np.concatenate(unrounded) - expected) / deviation,
        failures=(),
    )
    return replace(report, failures=tuple(_failures(report, parts)))


def _rms(difference: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(difference).mean()))


def _failures(report: WrittenReport, parts: DecoderParts) -> Iterator[str]:
    """A line for each missed gate; written so that NaN misses it too."""
    rounding = max(WEIGHT_ERROR[name] for name in parts.weights.formats)
    # GPTQ moves weights by whole steps on purpose: there the voice's speech is the judge (`parity.ROUNDED_TOP1`).
    calibrated = parts.weights.rounding == "gptq" and np.isfinite(report.weight_error)
    if not calibrated and not report.weight_error <= rounding:
        yield f"a written weight is {report.weight_error:.2f} steps off the checkpoint's, {rounding} is rounding"
    allowed = {"fp32": FLOAT_ERROR, "fp16": HALF_ERROR, "int8": ROUNDED_ERROR}[parts.cache.groups[0].dtype]
    if not report.float_error <= allowed:
        yield f"logits differ from torch on the written weights by {report.float_error:.1e}, allowed {allowed:.0e}"
    if not report.integer_error <= INTEGER_ERROR:
        yield f"integer arithmetic leaves an error of {report.integer_error:.2f}, allowed {INTEGER_ERROR}"
    if report.cache_error is not None and not report.cache_error <= CACHE_ERROR:
        yield f"rounding keys and values leaves an error of {report.cache_error:.2f}, allowed {CACHE_ERROR}"
    yield from wrap_failure(report.wraps, parts)
