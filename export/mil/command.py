"""`sottovoce mil`: a Core ML package shown, or run by the interpreter; needs no Apple hardware.

What it computes is not what an accelerator computes bit for bit: sums are float32 here, results rounded op by op.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console

from sottovoce.errors import OptionError
from sottovoce.export.mil.lint import lint
from sottovoce.export.mil.package import Function, Package, load_package
from sottovoce.export.mil.registry import OPS
from sottovoce.export.mil.runner import Runner
from sottovoce.export.mil.types import TensorType, storage
from sottovoce.export.mil.values import Stored
from sottovoce.export.show import show_rows
from sottovoce.runtime.output import check_output, written_whole
from sottovoce.runtime.table import size_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `mil`."""
    actions = parser.add_subparsers(dest="action", required=True)
    shown = actions.add_parser("show", help="functions, inputs, outputs, ops and weights of a package")
    shown.add_argument("package", type=Path, help="folder NAME.mlpackage")
    run_ = actions.add_parser("run", help="run one function of a package")
    run_.add_argument("package", type=Path, help="folder NAME.mlpackage")
    run_.add_argument("--function", help="which one (default: the package's default function)")
    run_.add_argument("--inputs", type=Path, metavar="NPZ", help="arrays by input name (default: random numbers)")
    run_.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    run_.add_argument("-o", "--output", type=Path, metavar="NPZ", help="write the outputs here, by name")
    linted = actions.add_parser(
        "lint", help="what the Neural Engine may refuse; exit status 1 where it finds violations"
    )
    linted.add_argument("package", type=Path, help="folder NAME.mlpackage")
    actions.add_parser("ops", help="the ops that the interpreter runs, with their parameters")


def run(args: argparse.Namespace) -> int:
    """Do the action; exit status 1 where the lint finds a violation."""
    console = Console(highlight=False, soft_wrap=True)
    if args.action == "ops":
        for name in sorted(OPS):
            print(f"{name}({', '.join(OPS[name].parameters)})")
        return 0
    package = load_package(args.package)
    if args.action == "show":
        _show(console, package)
        return 0
    if args.action == "lint":
        return _lint(package)
    if args.output is not None:
        check_output(args.output)
    runner = Runner(package, args.function)
    inputs = _random(runner.function, args.seed) if args.inputs is None else _arrays(args.inputs)
    outputs = runner.run(inputs)
    show_rows(console, f"{package.path}, {runner.function.name}: interpreted", map(_row, outputs.items()))
    if args.output is not None:
        with written_whole(args.output) as file:
            np.savez(file, **outputs)  # type: ignore[arg-type, unused-ignore]
    return 0


def _lint(package: Package) -> int:
    """Print the findings; 1 where one is a violation."""
    findings = lint(package)
    for finding in findings:
        print(finding)
    violations = sum(finding.level == "violation" for finding in findings)
    print(f"{violations} violations, {len(findings) - violations} notes; others measured the rules, no device ran it")
    return 1 if violations else 0


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; OptionError where it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise OptionError(f"--inputs {path} cannot be read: {str(error).splitlines()[0]}") from None


def _random(function: Function, seed: int) -> dict[str, np.ndarray]:
    """Normal numbers for inputs of floats, zeros for others; OptionError where an axis may have any length."""
    random, arrays = np.random.default_rng(seed), {}
    for name, kind in function.inputs.items():
        if None in kind.shape:
            raise OptionError(f"input {name} is {kind}: give --inputs, its length is not known")
        shape = tuple(axis or 0 for axis in kind.shape)
        numbers = random.standard_normal(shape) if kind.dtype.startswith("fp") else np.zeros(shape)
        arrays[name] = numbers.astype(storage(kind.dtype).array)
    return arrays


def _row(item: tuple[str, np.ndarray]) -> tuple[str, str]:
    """One output: its type and what its numbers look like."""
    name, array = item
    wide = array.astype(np.float64)
    spread = f"mean {wide.mean():.4g}, std {wide.std():.4g}, least {wide.min():.4g}, most {wide.max():.4g}"
    return name, f"{array.dtype}{list(array.shape)}  {spread if array.size else ''}"


def _show(console: Console, package: Package) -> None:
    """All there is to know without running it."""
    console.print(f"{package.path}: specification {package.specification}, default function {package.default}")
    for function in package.functions.values():
        show_rows(console, f"function {function.name}: inputs", _types(function.inputs.items()))
        if function.states:
            show_rows(console, "states", _types(function.states.items()))
        show_rows(console, "outputs", _types(function.output_types().items()))
        counts = Counter(operation.type for operation in function.operations)
        rows = [
            (name, f"{count}{'' if name in OPS else '  (not supported)'}") for name, count in sorted(counts.items())
        ]
        show_rows(console, "ops", rows)
    show_rows(console, "weights in files, each counted once", _weights(package))


def _types(items: Iterable[tuple[str, TensorType]]) -> list[tuple[str, str]]:
    """Names and types as rows."""
    return [(name, str(kind)) for name, kind in items]


def _weights(package: Package) -> list[tuple[str, str]]:
    """Bytes by type of number."""
    sizes: Counter[str] = Counter()
    for item in set(stored(package)):
        sizes[item.dtype] += item.nbytes
    return [(dtype, size_text(size)) for dtype, size in sorted(sizes.items())]


def stored(package: Package) -> Iterable[Stored]:
    """The constants that lie in weight files, once per use."""
    for function in package.functions.values():
        for operation in function.operations:
            for argument in operation.inputs.values():
                items = argument if isinstance(argument, tuple) else (argument,)
                yield from (item for item in items if isinstance(item, Stored))
