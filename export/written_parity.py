"""Does a quantized graph do what its own weights say? Tight where comparing with the checkpoint cannot be.

Three gates: the written matrices are the checkpoint's, rounded; the graph, its integer kernels told to use float32,
says what torch says with the written matrices; and as shipped, integer kernels and all, it stays near that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from sottovoce.export.decoder import GRAPH, DecoderParts
from sottovoce.export.drive import Driver
from sottovoce.export.head import ids_of
from sottovoce.export.parity import HALF_ERROR, Case, compare, drive, random_cases, wrap_failure, wraps_of
from sottovoce.export.written import load_written
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.decoder import Decoder

WEIGHT_ERROR = {"int8": 0.501, "int4": 1.001}
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

FLOAT_STEPS = 12
"""Steps per case with float32 arithmetic, which is several times slower."""


@dataclass(frozen=True)
class WrittenReport:
    """`weight_error` in steps, `float_error` (largest) and `integer_error` (rms) as shares of the logits' deviation.

    `wraps` is how often the ring went round in the longest case; `failures` words each missed gate.
    """

    cases: tuple[str, ...]
    steps: int
    wraps: float
    weight_error: float
    float_error: float
    integer_error: float
    failures: tuple[str, ...]


def check_written(
    source: Checkpoint | Decoder,
    folder: Path,
    parts: DecoderParts,
    cases: Sequence[Case] | None = None,
    *,
    threads: int = 1,
) -> WrittenReport:
    """Compare the quantized graph in `folder` with torch on the matrices read back from it (`random_cases` by default).

    Raises nothing for a bad graph: its failures are in the report.
    """
    cases = random_cases(parts) if cases is None else cases
    decoder, weight_error = load_written(source, folder, ids_of(parts.head.ids))
    driver = Driver(folder / GRAPH, parts.cache.groups[0], threads)
    compared = [compare(case, driver, decoder, parts) for case in cases]
    shipped, expected = (np.concatenate([getattr(c, side) for c in compared]) for side in ("graph", "torch"))
    deviation = max(float(expected.std()), 1e-30)
    del driver, decoder  # their weights need not lie beside those of the second session
    exact = Driver(folder / GRAPH, parts.cache.groups[0], threads, model=float_graph(folder / GRAPH))
    errors = []
    for found in compared:
        steps = min(found.case.length, FLOAT_STEPS)
        logits = drive(replace(found.case, tokens=found.fed[:steps]), exact, parts)[0]
        errors.append(np.abs(logits - found.torch[: steps + 1]).max())
    report = WrittenReport(
        cases=tuple(case.name for case in cases),
        steps=len(shipped),
        wraps=wraps_of(cases, parts),
        weight_error=weight_error,
        float_error=float(np.max(errors)) / deviation,
        integer_error=float(np.sqrt(np.square(shipped - expected).mean())) / deviation,
        failures=(),
    )
    return replace(report, failures=tuple(_failures(report, parts)))


def float_graph(path: Path) -> bytes:
    """The graph in `path` with integer arithmetic turned off: the same nodes over the same bytes."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    serialized: bytes = model.SerializeToString()
    return serialized


def _failures(report: WrittenReport, parts: DecoderParts) -> Iterator[str]:
    """A line for each missed gate; written so that NaN misses it too."""
    rounding = WEIGHT_ERROR[parts.weights.layers]
    if not report.weight_error <= rounding:
        yield f"a written weight is {report.weight_error:.2f} steps off the checkpoint's, {rounding} is rounding"
    allowed = HALF_ERROR if parts.cache.groups[0].dtype == "fp16" else FLOAT_ERROR
    if not report.float_error <= allowed:
        yield f"logits differ from torch on the written weights by {report.float_error:.1e}, allowed {allowed:.0e}"
    if not report.integer_error <= INTEGER_ERROR:
        yield f"integer arithmetic leaves an error of {report.integer_error:.2f}, allowed {INTEGER_ERROR}"
    yield from wrap_failure(report.wraps, parts)
