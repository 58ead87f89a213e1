"""Groups of settings: frozen, validated, read back from JSON, and changed by dotted `key=value`."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
)

from seedtok.core.errors import ConfigError
from seedtok.core.records import json_value

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A frozen group of fields; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _text(path: Path) -> str:
    text = path.as_posix()
    return text if path.is_absolute() or text.startswith(("../", "~")) or text in (".", "..") else f"./{text}"


def _path_of_text(value: Any) -> Any:
    """A text that can only be a path, as a path; anything else as it is."""
    is_path = isinstance(value, str) and (value.startswith(("./", "../", "~")) or Path(value).is_absolute())
    return Path(value) if is_path else value


# a checkpoint by a name, such as "mini" or a hub id, or by its folder, a Path or a text such as "./mini"
NameOrFolder = Annotated[str | Path, BeforeValidator(_path_of_text)]


def read_settings(like: S, record: Any) -> S:
    """The settings that a JSON object describes, in the classes that `like` has; the inverse of `settings_json`.

    Raises pydantic's ValidationError; TypeError for what is no object.
    """
    if not isinstance(record, dict):
        raise TypeError(f"expected an object, not {str(record)[:40]}")
    fields = {name: _read(getattr(like, name, None), value) for name, value in record.items()}
    return type(like).model_validate(fields)


def _read(like: Any, value: Any) -> Any:
    """A value that JSON gave, with its groups of settings in the classes of `like`, also those in a tuple."""
    if isinstance(like, Settings) and value is not None:
        return read_settings(like, value)
    if isinstance(like, tuple) and like and isinstance(value, list):
        return tuple(_read(like[min(i, len(like) - 1)], item) for i, item in enumerate(value))
    return value


def settings_json(settings: Settings) -> str:
    """Settings as JSON, all fields of all groups, whatever class a field was declared with.

    A relative path starts with "./" or "../", so that the folder "./mini" is not read back as the name "mini".
    """
    return json.dumps(_plain(settings), indent=1)


def _plain(value: Any) -> Any:
    """A value of settings as JSON has it."""
    if isinstance(value, Settings):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return _text(value) if isinstance(value, Path) else value


def with_override(settings: S, item: str) -> S:
    """Settings with one `a.b=value` applied; the value is JSON, or else plain text.

    Raises ConfigError for a setting that does not exist (suggesting a similar name) or a value that does not fit.
    """
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, got {item!r}")
    return _override(settings, key.split("."), text, key)


def _override(settings: S, path: Sequence[str], text: str, key: str) -> S:
    head, *rest = path
    names = list(type(settings).model_fields)
    if head not in names:
        similar = difflib.get_close_matches(head, names, n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else f"; known here: {', '.join(names)}"
        raise ConfigError(f"unknown setting {key!r}: there is no {head!r}{hint}")
    value: Any = getattr(settings, head)
    if rest:
        if not isinstance(value, Settings):
            raise ConfigError(f"unknown setting {key!r}: {head!r} is a single value")
        value = _override(value, rest, text, key)
    else:
        value = _value(value, text, key)
    fields = {name: getattr(settings, name) for name in names} | {head: value}
    try:
        return type(settings).model_validate(fields)
    except ValidationError as error:
        shown = text if len(text) <= 80 else f"{text[:80]}..."
        raise ConfigError(f"bad value for {key!r}: {shown!r}: {error.errors()[0]['msg']}") from None


def _value(before: Any, text: str, key: str) -> Any:
    """The value that a text gives; of a group, only that it is left out."""
    if text in ("none", "None"):
        return None
    if isinstance(before, Settings):
        raise ConfigError(f"{key!r} is a group of settings: give them one by one, as in {key}.KEY=VALUE")
    try:
        return json_value(text)
    except ValueError:
        return text
