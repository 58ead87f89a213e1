"""Untrusted JSON, parsed and converted into configuration dataclasses with checked types."""

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seedtok.core.errors import CheckpointError, SeedTokError

T = TypeVar("T")
LIMIT = 1 << 31  # sizes and counts are below it
EXPECTED = {
    int: "an integer of at least 0", float: "a finite number", str: "a text", bool: "true or false", tuple: "a list",
}  # fmt: skip


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text; raises ValueError, with a message of one line, for invalid JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def from_record(kind: type[T], record: Any, what: str) -> T:
    """A configuration dataclass from a JSON object: the inverse of `dataclasses.asdict`.

    Numbers must be finite, and integers non-negative. `what` names the model in messages. Raises CheckpointError for a
    field that is unknown, missing or of another type, and for values that the dataclass itself refuses.
    """
    try:
        return _dataclass(kind, record, "")
    except _Mismatch as problem:
        raise CheckpointError(f"not a configuration of {what}: {problem}") from None


class _Mismatch(Exception):
    """A value that does not fit the field of a configuration."""


def _dataclass(kind: Any, record: Any, path: str) -> Any:
    if not isinstance(record, dict):
        raise _Mismatch(f"{path.rstrip('.') or 'it'} is {_shown(record)}; expected an object")
    known = {field.name: field for field in fields(kind)}
    if surplus := sorted(map(str, record.keys() - known.keys())):
        raise _Mismatch(f"there is no field {path}{surplus[0]}")
    for name, field in known.items():
        if name not in record and field.default is MISSING and field.default_factory is MISSING:
            raise _Mismatch(f"{path}{name} is missing")
    hints = get_type_hints(kind)
    try:
        return kind(**{name: _value(hints[name], value, f"{path}{name}") for name, value in record.items()})
    except (SeedTokError, ArithmeticError) as error:
        raise _Mismatch(f"{path}{error}") from None


def _value(hint: Any, value: Any, path: str) -> Any:
    """A JSON value as the type `hint`: a dataclass, a tuple, a Literal, an optional type or a plain type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _value(next(part for part in inner if part is not type(None)), value, path)
    if is_dataclass(hint):
        return _dataclass(hint, value, f"{path}.")
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_value(inner[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if kind is Literal and any(type(value) is type(choice) and value == choice for choice in inner):
        return value
    if hint is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) is hint and (hint is not float or math.isfinite(value)) and (hint is not int or 0 <= value < LIMIT):
        return value
    wanted = f"one of {', '.join(map(str, inner))}" if kind is Literal else EXPECTED.get(kind or hint, str(hint))
    raise _Mismatch(f"{path} is {_shown(value)}; expected {wanted}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def encodable(text: str) -> str:
    """A text that can be encoded as UTF-8: lone surrogates, as in file names that are not UTF-8, become "?"."""
    return text.encode("utf-8", "replace").decode()
