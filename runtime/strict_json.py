"""JSON from strangers, read strictly: whatever is damaged, absurd or not JSON is one error of this package."""

import json
import math
from pathlib import Path
from typing import Any

from sottovoce.errors import BundleError, SottovoceError


def read_json(path: Path, error: type[SottovoceError] = BundleError) -> Any:
    """The value in the JSON file `path`; raises `error`, naming the file, where it is missing or malformed."""
    try:
        return decode_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read: {problem}") from None


def decode_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError for text that is not JSON (RFC 8259: neither NaN nor Infinity), is nested too deeply, names a key
    twice, or holds a number beyond float64.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(name: str) -> Any:
    """Python reads NaN and Infinity by default, JSON does not have them."""
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    """`digits` as a float that is one."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: readers disagree on which of two equal ones counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in value if names.count(name) > 1)!r} stands there twice")
    return value
