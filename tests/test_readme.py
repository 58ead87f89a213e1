"""README's commands and snippets, run as written, in order, in one empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from seedtok.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.compile(r"[|<>&;$]")  # what only a shell can do
INTO_FILE = re.compile(r"([^|<>&;$]+) > (\S+)")


class Block(NamedTuple):
    """A fenced block of code; `mark` is the comment above it that says what the tests may do with it, if any."""

    language: str
    code: str
    mark: str


BLOCKS = [
    Block(language, code, mark or "")
    for mark, language, code in re.findall(
        r"(?:<!-- (.*?) -->\n)?^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
    )
]
RUN = [block for block in BLOCKS if block.language in ("sh", "python") and not block.mark]
PARSED = [block for block in BLOCKS if block.mark.startswith("parsed by the tests")]


def commands(code: str) -> list[str]:
    """The commands of a block, without comments."""
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in code.splitlines()) if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the blocks share, in their order."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH with `seedtok` in it: of this interpreter, installed or not."""
    binaries = tmp_path_factory.mktemp("bin")
    (binaries / "seedtok").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seedtok "$@"\n')
    (binaries / "seedtok").chmod(0o755)
    return binaries


def run_shell(line: str, folder: Path, program: Path) -> None:
    path = f"{program}{os.pathsep}{os.environ['PATH']}"
    sources = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line], cwd=folder, capture_output=True, text=True, timeout=250,
        env=os.environ | {"PATH": path, "PYTHONPATH": sources},
    )  # fmt: skip
    assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
    assert "warning:" not in ran.stderr, f"{line}\n{ran.stderr}"


def run_here(line: str) -> str:
    """Runs a plain command without the seconds that an interpreter and its imports take; returns what it printed."""
    name, *arguments = shlex.split(line)
    assert name == "seedtok", line
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    assert "warning:" not in result.stderr, f"{line}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RUN)), ids=[f"{b.language}-{i}" for i, b in enumerate(RUN)])
def test_the_blocks_run_in_order(number: int, folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    block = RUN[number]
    if block.language == "python":
        values: dict[str, object] = {}
        exec(compile(block.code, "README.md", "exec"), values)
        for line in block.code.splitlines():
            if claimed := re.match(r'(\w+) = .*# (\["\w+"\])$', line):  # what a comment says comes out does
                assert values[claimed[1]] == eval(claimed[2]), line
        return
    for line in commands(block.code):
        if into := INTO_FILE.fullmatch(line):
            Path(into[2]).write_text(run_here(into[1]), encoding="utf-8")
        elif SHELL.search(line):
            run_shell(line, folder, program)
        else:
            run_here(line)


def test_what_needs_downloads_is_parsed():
    assert PARSED
    for line in (line for block in PARSED for line in commands(block.code)):
        name, *arguments = shlex.split(line)
        assert name == "seedtok", line
        command = typer.main.get_command(app)
        while hasattr(command, "get_command"):
            context = command.make_context(name, list(arguments), resilient_parsing=True)
            command, name, arguments = command.get_command(context, arguments[0]), arguments[0], arguments[1:]
        command.make_context(name, arguments)  # raises for an unknown option, or a missing one


def test_every_block_is_accounted_for():
    left = [block for block in BLOCKS if block not in RUN and block not in PARSED]
    assert [(b.language, b.mark.split(":")[0]) for b in left] == [("sh", "not run by the tests"), ("bibtex", "")]


def test_what_make_is_asked_for_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    assert {"demo", "test", "test-latest", "lock"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
