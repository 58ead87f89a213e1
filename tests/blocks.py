"""Fenced blocks of commands and snippets in a page of documentation, and running them as they are written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.testing import CliRunner

from seedtok.cli.app import app

ROOT = Path(__file__).parent.parent
SHELL = re.compile(r"[|<>&;$]")  # what only a shell can do
INTO_FILE = re.compile(r"([^|<>&;$]+) > (\S+)")


class Block(NamedTuple):
    """A fenced block of code; `mark` is the comment above it that says what the tests may do with it, if any."""

    language: str
    code: str
    mark: str


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page that have a language."""
    found = re.findall(
        r"(?:<!-- (.*?) -->\n)?^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [Block(language, code, mark or "") for mark, language, code in found]


def run_blocks(blocks: list[Block]) -> list[Block]:
    """Those that the tests run."""
    return [block for block in blocks if block.language in ("sh", "python") and not block.mark]


def parsed_blocks(blocks: list[Block]) -> list[Block]:
    """Those whose commands the tests parse alone."""
    return [block for block in blocks if block.mark.startswith("parsed by the tests")]


def commands(code: str) -> list[str]:
    """The commands of a block, without comments."""
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in code.splitlines()) if line]


def program_in(folder: Path) -> Path:
    """A folder for PATH with `seedtok` in it: of this interpreter, installed or not."""
    (folder / "seedtok").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seedtok "$@"\n')
    (folder / "seedtok").chmod(0o755)
    return folder


def run_block(block: Block, folder: Path, program: Path) -> None:
    """Runs a block in the working directory `folder`; an error or a warning fails.

    What a comment of a snippet says comes out, as in `x = f() # ["text"]`, has to.
    """
    if block.language == "python":
        values: dict[str, object] = {}
        exec(compile(block.code, "page.md", "exec"), values)
        for line in block.code.splitlines():
            if claimed := re.match(r'(\w+) = .*# (\["\w+"\])$', line):
                assert values[claimed[1]] == eval(claimed[2]), line
        return
    for line in commands(block.code):
        if into := INTO_FILE.fullmatch(line):
            Path(into[2]).write_text(run_here(into[1]), encoding="utf-8")
        elif SHELL.search(line):
            run_shell(line, folder, program)
        else:
            run_here(line)


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


def parse_command(line: str) -> None:
    """Checks a command without running it: an unknown option, a missing one, or a program that is not there, fails.

    A `seedtok` command may follow a launcher, as in `torchrun -m seedtok train`; options of launchers are not checked.
    """
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\w+", word)]
    name, *arguments = words
    if name == "make":
        for target in arguments:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), line
    elif name == "pytest":
        assert all((ROOT / path).exists() for path in arguments), line
    elif name == "python":
        program = ROOT / arguments[0]
        assert program.is_file(), line
        sources = "".join(path.read_text(encoding="utf-8") for path in program.parent.glob("*.py"))
        assert all(f'"{word}"' in sources for word in arguments if word.startswith("--")), line
    else:
        assert "seedtok" in words, line
        parse_seedtok(words[words.index("seedtok") + 1 :])


def parse_seedtok(arguments: list[str]) -> None:
    """Parses the arguments of `seedtok`."""
    name = "seedtok"
    command: Any = typer.main.get_command(app)
    while hasattr(command, "get_command"):
        context = command.make_context(name, list(arguments), resilient_parsing=True)
        command, name, arguments = command.get_command(context, arguments[0]), arguments[0], arguments[1:]
    command.make_context(name, arguments)
