"""The report's published form: a JSON Schema (2020-12) made of its dataclasses, `devices/profile.schema.json`.

python -m sottovoce.devices.json_schema > devices/profile.schema.json
"""

import json
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, Literal

from sottovoce.devices.report import SCHEMA, Profile

SCALARS: Final = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def json_schema() -> dict[str, Any]:
    """The schema of a report."""
    definitions: dict[str, Any] = {}
    form = _form(Profile, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sottovoce profile", "version": SCHEMA}
    return {**head, **form, "$defs": dict(sorted(definitions.items()))}


def _form(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of values of type `kind`; dataclasses go to `definitions` and are referred to."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in SCALARS:
        return {"type": SCALARS[kind]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_form(arg, definitions) for arg in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _form(args[1], definitions)}
    if origin in (list, tuple):
        return {"type": "array", "items": _form(args[0], definitions)}
    assert is_dataclass(kind), kind
    name = typing.cast(type, kind).__name__
    if name not in definitions:
        definitions[name] = {}  # taken, should the class refer to itself
        definitions[name] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a dataclass: no other keys, those without a default are required."""
    hints = typing.get_type_hints(kind)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    properties = {f.name: _form(hints[f.name], definitions) for f in fields(kind)}
    about = {"description": " ".join((kind.__doc__ or "").split())}
    return {"type": "object", **about, "properties": properties, "required": needed, "additionalProperties": False}


def main() -> None:
    """Print the schema."""
    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
