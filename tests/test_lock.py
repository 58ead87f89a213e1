"""What `make` installed is what the lock names: every package, those that others need included."""

import os
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = os.environ.get("SEEDTOK_LOCK")  # set by `make test`

pytestmark = pytest.mark.skipif(not LOCK, reason="this environment was not made by `make test`")


def locked_versions() -> dict[str, str]:
    assert LOCK
    lines = (Requirement(line) for line in Path(LOCK).read_text().splitlines() if line and not line.startswith("#"))
    here = (line for line in lines if line.marker is None or line.marker.evaluate())
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in here}


def needed(requirement: Requirement, found: dict[str, str], seen: set[tuple[str, str]]) -> None:
    """Adds to `found` the versions of a requirement's package and of all that it needs here."""
    installed = distribution(requirement.name)
    found[canonicalize_name(requirement.name)] = installed.version.partition("+")[0]  # such as 2.13.0+cpu
    for extra in ("", *requirement.extras):
        if (requirement.name, extra) in seen:
            continue
        seen.add((requirement.name, extra))
        for line in installed.requires or []:
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                needed(inner, found, seen)


def test_every_installed_package_is_locked():
    found: dict[str, str] = {}
    needed(Requirement("seedtok[test]"), found, set())
    del found["seedtok"]
    locked = locked_versions()
    assert {name: version for name, version in found.items() if locked.get(name) != version} == {}
