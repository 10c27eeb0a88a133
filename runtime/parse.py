"""Decoded JSON or TOML as frozen dataclasses, read strictly: manifests, voices, recipes, reports and tables."""

import sys
import types
import typing
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from sottovoce.errors import BundleError


def parse(kind: Any, value: Any, where: str) -> Any:
    """`value` (decoded JSON) as `kind`: a dataclass, Literal, tuple, list, dict, union or scalar type.

    Raises BundleError that names `where` and what was expected there.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        return _expect(value in args, value, where, f"one of {', '.join(map(str, args))}")
    if origin in (typing.Union, types.UnionType):
        return _parse_union(args, value, where)
    if origin in (tuple, list):
        _expect(isinstance(value, list | tuple), value, where, "a list")
        kinds = args if origin is tuple and Ellipsis not in args else (args[0],) * len(value)
        _expect(len(kinds) == len(value), value, where, f"{len(kinds)} items")
        return origin(parse(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {k: parse(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    if kind is float:
        return _parse_float(value, where)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value, where, kind.__name__)
    return value


def _parse_float(value: Any, where: str) -> float:
    """A finite number, which JSON may write without a decimal point."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(number and abs(value) <= sys.float_info.max, value, where, "a finite number")
    return float(value)


def _parse_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first member of the union that takes `value`; the last one's error otherwise."""
    if value is None and type(None) in args:
        return None
    *members, last = [a for a in args if a is not type(None)]
    for member in members:
        with suppress(BundleError):
            return parse(member, value, where)
    return parse(last, value, where)


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    """`value` as the dataclass `kind`, refusing unknown and missing keys."""
    _expect(isinstance(value, dict), value, where, "an object")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(value) - known):
        raise BundleError(f"{where}: unknown key {unknown[0]!r}")
    hints = typing.get_type_hints(kind)
    parsed = {k: parse(hints[k], v, f"{where}.{k}") for k, v in value.items()}
    try:
        return kind(**parsed)
    except TypeError as error:
        raise BundleError(f"{where}: {str(error).split('() ')[-1]}") from None


def _expect(ok: bool, value: Any, where: str, what: str) -> Any:
    """`value` if `ok`, else a BundleError that says what was expected `where`."""
    if not ok:
        raise BundleError(f"{where}: expected {what}, found {str(value)[:60]!r}")
    return value
