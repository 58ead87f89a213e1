"""The commands and snippets of the documentation, run as written, each page in an empty folder of its own."""

import contextlib
import re
from pathlib import Path

import pytest
import torch

from blocks import Block, blocks_of, commands, parse_command, parsed_blocks, program_in, run_block, run_blocks

ROOT = Path(__file__).parent.parent
PAGES = [
    "index.md", "paper.md", "tutorials/own_pictures.md", "tutorials/evaluating.md", "tutorials/own_lm.md",
    "howto/serving.md", "howto/seed_llama.md", "howto/tokenizing.md",
    "howto/transformers.md", "full_size.md", "reproducing.md", "own_loop.md",
]  # fmt: skip


def joined(page: Path) -> list[Block]:
    """The blocks to run; snippets of a page share their variables, so they are one."""
    blocks = run_blocks(blocks_of(page))
    if page.name not in ("paper.md", "own_loop.md"):
        return blocks
    return [blocks[0]._replace(code="\n".join(block.code for block in blocks))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if joined(ROOT / "docs" / name)])
def test_a_page_runs_from_top_to_bottom(name: str, tmp_path: Path):
    for folder in ("bin", "work"):
        (tmp_path / folder).mkdir()
    program = program_in(tmp_path / "bin")
    with contextlib.chdir(tmp_path / "work"):
        try:
            for block in joined(ROOT / "docs" / name):
                run_block(block, tmp_path / "work", program)
        finally:
            torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", PAGES)
def test_other_blocks_are_parsed_or_marked(name: str):
    blocks = blocks_of(ROOT / "docs" / name)
    for block in parsed_blocks(blocks):
        for line in commands(block.code):
            parse_command(line)
    left = [block for block in blocks if block not in run_blocks(blocks) and block not in parsed_blocks(blocks)]
    assert all(block.mark.startswith("not run by the tests: ") for block in left)


def test_every_page_of_the_site_is_there_and_every_page_is_in_the_site():
    listed = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages
    assert set(PAGES) < pages
