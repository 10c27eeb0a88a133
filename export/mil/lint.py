"""Would the Neural Engine take this program? A lint by rules that others measured; only a device can prove it.

None of these rules is Apple's promise, and nothing here was run on Apple hardware: each finding names its source.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sottovoce.export.mil.package import Function, Operation, Package
from sottovoce.export.mil.types import TensorType

Level = Literal["violation", "note"]

APPLE: Final = "Apple ML Research, Deploying Transformers on the Apple Neural Engine (2022)"
GUIDE: Final = "ane-guide.readthedocs.io, chapters 4 and 17 (reverse-engineered by others)"
CATALOG: Final = "aneforge 0.4.0, _op_catalog.py (measured by others on M1 to M5)"
ALIGNMENT: Final = "coremltools issue 2631 (a state whose axis is no multiple of 32 fails)"
FLEXIBLE: Final = "coremltools issue 2537 (states cannot have flexible shapes)"
INDEXING: Final = "coreai-torch issue 6 (runtime begin and end crash the engine's compiler)"

NATIVE: Final = frozenset(
    """abs add atan batch_norm cast ceil clamped_relu clip concat const constexpr_lut_to_dense conv conv_transpose elu
    equal erf exp exp2 expand_dims floor gather gelu greater greater_equal identity instance_norm inverse l2_norm
    layer_norm leaky_relu less less_equal linear log logical_not matmul maximum minimum mul not_equal pad pow prelu
    read_state real_div reduce_argmax reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp reduce_max
    reduce_mean reduce_min reduce_sum reduce_sum_square relu relu6 reshape round rsqrt scaled_dot_product_attention
    scaled_tanh select sigmoid sigmoid_hard sign silu slice_by_index slice_update softmax softplus softsign split sqrt
    square squeeze stack sub tanh threshold thresholded_relu tile transpose write_state""".split()
)
"""Ops with a path on every engine from M1 (A14) on."""

LATER: Final = {
    "sin": "runs there from A15 and M3 on",
    "cos": "runs there from A15 and M3 on",
    "constexpr_blockwise_shift_scale": "runs there from A15 and M3 on; M1 and M2 keep its weights as fp16",
    "reduce_argmin": "runs there from A15 and M3 on",
}
"""Ops with a path on some engines."""

WIDEST: Final = 16384
DEEPEST: Final = 65536
LONGEST_SEARCH: Final = 2048
ALIGNED: Final = 32
LARGEST_KERNEL: Final = 13


@dataclass(frozen=True)
class Finding:
    """One thing that the engine may refuse (`violation`) or that only some engines take (`note`)."""

    level: Level
    rule: str
    where: str
    text: str
    source: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.level}: {self.where}: {self.text} [{self.rule}; {self.source}]"


def lint(package: Package) -> list[Finding]:
    """Every finding in every function, violations first, each once per function however many ops share it."""
    found: dict[tuple[str, str, str], Finding] = {}
    for function in package.functions.values():
        for finding in _findings(function):
            found.setdefault((finding.rule, finding.where, finding.text), finding)
    return sorted(found.values(), key=lambda finding: finding.level, reverse=True)


def _findings(function: Function) -> Iterator[Finding]:
    """All rules over one function."""
    yield from _edges(function)
    made = {name: kind for operation in function.operations for name, kind in operation.outputs}
    known = Known(
        types=dict(function.inputs) | made,
        constants=frozenset(name for o in function.operations if _constant(o) for name, _ in o.outputs),
    )
    for operation in function.operations:
        for rule in (_path, _dynamic, _kernel, _search):
            for level, text, source in rule(operation, known):
                # Where an op has no path, one line says so for all of its kind.
                subject = operation.type if rule is _path else operation.name
                yield Finding(level, rule.__name__.strip("_"), f"{function.name}: {subject}", text, source)
        if not _constant(operation):
            for name, kind in operation.outputs:
                yield from _tensor(kind, f"{function.name}: {name}")


@dataclass(frozen=True)
class Known:
    """What a function says of its values: their types, and which are constants."""

    types: Mapping[str, TensorType]
    constants: frozenset[str]


def _constant(operation: Operation) -> bool:
    """Whether the op only brings a constant."""
    return operation.type == "const" or operation.type.startswith("constexpr_")


Rule = Iterator[tuple[Level, str, str]]


def _path(operation: Operation, known: Known) -> Rule:
    """The op has a path on the engine."""
    if operation.type in LATER:
        yield "note", f"op {operation.type} {LATER[operation.type]}", CATALOG
    elif operation.type not in NATIVE:
        yield "violation", f"op {operation.type} has no path on the engine", CATALOG
    if operation.type == "linear":
        yield "violation", "op linear: a 1×1 convolution is what the engine is made for", APPLE


def _dynamic(operation: Operation, known: Known) -> Rule:
    """Places are constants."""
    for name in ("begin", "end", "indices", "size"):
        argument = operation.inputs.get(name)
        if isinstance(argument, str) and argument not in known.constants:
            yield "violation", f"op {operation.type} takes {name} at run time", INDEXING


def _kernel(operation: Operation, known: Known) -> Rule:
    """Convolutions are not too wide."""
    widths = _shape(operation, "weight", known)[2:] if operation.type == "conv" else ()
    if max((width or 0 for width in widths), default=0) > LARGEST_KERNEL:
        yield "violation", f"a kernel of {list(widths)}: at most {LARGEST_KERNEL} fits", CATALOG


def _search(operation: Operation, known: Known) -> Rule:
    """Searches for the largest or smallest value are short."""
    longest = max((axis or 0 for axis in _shape(operation, "x", known)), default=0)
    if operation.type in ("reduce_argmax", "reduce_argmin") and longest > LONGEST_SEARCH:
        yield "violation", f"op {operation.type} over up to {longest} values: at most {LONGEST_SEARCH}", GUIDE


def _shape(operation: Operation, name: str, known: Known) -> tuple[int | None, ...]:
    """The shape of an argument, () where it has none."""
    argument = operation.inputs.get(name)
    if isinstance(argument, str):
        return known.types[argument].shape if argument in known.types else ()
    return getattr(argument, "shape", ())


def _tensor(kind: TensorType, where: str) -> Iterator[Finding]:
    """One activation."""
    if kind.dtype != "fp16":
        yield Finding("violation", "dtype", where, f"{kind}: activations are fp16 there", GUIDE)
    if len(kind.shape) != 4:
        yield Finding("violation", "rank", where, f"{kind}: the engine's layout has four axes, (B, C, 1, S)", APPLE)
    if None in kind.shape:
        yield Finding("violation", "shape", where, f"{kind}: an axis of any length", FLEXIBLE)
    sizes = [axis or 0 for axis in kind.shape]
    if max(sizes[-2:], default=0) > WIDEST:
        yield Finding("violation", "size", where, f"{kind}: at most {WIDEST} along the last two axes", GUIDE)
    if len(sizes) > 2 and max(sizes[:-2]) > DEEPEST:
        yield Finding("violation", "size", where, f"{kind}: at most {DEEPEST} channels", GUIDE)


def _edges(function: Function) -> Iterator[Finding]:
    """What comes in, goes out and stays: as activations, and along the last axis in whole lines of memory."""
    groups = {"input": function.inputs, "state": function.states, "output": function.output_types()}
    for group, kinds in groups.items():
        for name, kind in kinds.items():
            where = f"{function.name}: {group} {name}"
            yield from _tensor(kind, where)
            last = kind.shape[-1] if kind.shape else 1
            if last is not None and last > 1 and last % ALIGNED:
                text = f"{kind}: the last axis is no multiple of {ALIGNED}"
                yield Finding("violation", "alignment", where, text, ALIGNMENT)
