"""Checks an installation of the wheel without extras, by whose interpreter it is run; `make release` does.

python tools/check_release.py

Nothing that an extra alone asks for may be installed, the types have to be there, and encode, decode, caption and draw
have to work, in an empty folder.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution, distributions
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COMMANDS = (
    "imagine 'a fox on the left on a blue background' --steps 2 --out fox.png",
    "encode fox.png --json > codes.jsonl",
    "decode codes.jsonl --steps 2 --out decoded",
    "caption fox.png --json",
    "draw 'a fox on the left on a blue background' --out drawn.png",
)


def required(name: str, extra: str) -> Iterator[str]:
    """The packages that a distribution requires with an extra ("" is none), on this machine."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield canonicalize_name(requirement.name)


def closure(installed: set[str]) -> set[str]:
    """Everything that the package needs without extras, directly or not."""
    found, new = {"seedtok"}, ["seedtok"]
    while new:
        for name in required(new.pop(), ""):
            if name in installed and name not in found:
                found.add(name)
                new.append(name)
    return found


def main() -> None:
    """Exits with a line on the first thing that is wrong."""
    installed: set[str] = {canonicalize_name(one.metadata["Name"]) for one in distributions()}
    extras = distribution("seedtok").metadata.get_all("Provides-Extra") or []
    optional = {name for extra in extras for name in required("seedtok", extra)}
    if unneeded := sorted((optional & installed) - closure(installed)):
        sys.exit(f"installed without an extra: {', '.join(unneeded)}")
    if not files("seedtok").joinpath("py.typed").is_file():
        sys.exit("py.typed is missing: type checkers would not see the types")
    program = Path(sys.executable).with_name("seedtok")
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            line = f"{shlex.quote(str(program))} {command}"
            done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"seedtok {command}: exit {done.returncode}: {done.stderr.strip()}")
        codes = json.loads((Path(folder) / "codes.jsonl").read_text())["codes"]
        made = sorted(path.name for path in Path(folder).rglob("*.png"))
    if len(codes) != 32 or len(made) != 3:
        sys.exit(f"{len(codes)} codes and the images {', '.join(made)}; expected 32, and three images")
    print(f"seedtok {distribution('seedtok').version}: {len(installed)} packages, all needed; every command works")


if __name__ == "__main__":
    main()
