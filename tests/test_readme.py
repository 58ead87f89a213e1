"""README's commands and snippets, run as written, in order, in one empty folder."""

import re
from pathlib import Path

import pytest

from blocks import blocks_of, commands, parse_command, parsed_blocks, program_in, run_block, run_blocks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks_of(ROOT / "README.md")
RUN, PARSED = run_blocks(BLOCKS), parsed_blocks(BLOCKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the blocks share, in their order."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program_in(tmp_path_factory.mktemp("bin"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RUN)), ids=[f"{b.language}-{i}" for i, b in enumerate(RUN)])
def test_the_blocks_run_in_order(number: int, folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    run_block(RUN[number], folder, program)


def test_what_needs_downloads_is_parsed():
    assert PARSED
    for block in PARSED:
        for line in commands(block.code):
            parse_command(line)


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
