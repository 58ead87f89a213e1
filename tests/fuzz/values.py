"""What goes wrong with files: odd JSON values, documents with a part changed, bytes that were damaged."""

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from seedtok.core.errors import SeedTokError


def quick(examples: int) -> settings:
    """The same examples in every run; with FUZZ=50 in the environment, 50 times as many, new ones each time."""
    times = int(os.environ.get("FUZZ", "1"))
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=examples * times, derandomize=times == 1, deadline=None, database=None,
        suppress_health_check=checks,
    )  # fmt: skip


@contextmanager
def works_or_says_why() -> Iterator[None]:
    """Within, nothing is raised but our own errors and those of files."""
    with suppress(SeedTokError, OSError):
        yield


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.sampled_from([-(10**30), 10**30, 2**31, 2**63, 1e308, 0.5]),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.text(max_size=8),
    st.sampled_from(["", "\0", "\ud800", "a\nb", "../..", "x" * 5000, "1", "nan", "é", "mini"]),
)  # fmt: skip
odd = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
nested = st.sampled_from(
    ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "1" * 5000, "NaN", "-Infinity"]
)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [place for key, value in items for place in [(*path, key), *_places(value, (*path, key))]]


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document of which up to three parts are another value, missing, or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        parent = document
        for key in way:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if change == "remove":
            del parent[last]
        elif change == "double" and isinstance(parent, list):
            parent.append(parent[last])
        else:
            parent[last] = draw(odd)
    return document


def json_texts(document: Any) -> st.SearchStrategy[str]:
    """Texts of a document with parts changed, of anything else, and of what is nested too deeply."""
    return st.one_of(changed(document).map(json.dumps), odd.map(json.dumps), nested)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes that are cut, overwritten in places, or have something put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.binary(max_size=12) | st.sampled_from([b"\0" * 512, b"\xff" * 8, b"9" * 12, b"\r\n", b'"', b"\t"])
        )
        kind = draw(st.sampled_from(["cut", "overwrite", "overwrite", "insert"]))
        data = data[:at] + (b"" if kind == "cut" else piece + data[at + (len(piece) if kind == "overwrite" else 0) :])
    return data
