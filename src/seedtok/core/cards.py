"""Model cards: the README.md that goes with a checkpoint to a model hub."""

from __future__ import annotations

import os

from seedtok.core.hub import MINI

PAPER = "https://arxiv.org/abs/2307.08041"


def tokenizer_card(repo_id: str, image_decoder: str, license: str | None) -> str:
    """The card of a SEED tokenizer, with the source of its image decoder."""
    what = f"A SEED tokenizer: images as discrete causal codes, and back ({PAPER})."
    usage = (
        "from seedtok import SeedTokenizer", f"tokenizer = SeedTokenizer.from_pretrained({repo_id!r})",
        'codes = tokenizer.encode("image.png")', "images = tokenizer.decode(codes)",
    )  # fmt: skip
    return _card(repo_id, what, usage, {"Image decoder": image_decoder}, license)


def lm_card(repo_id: str, base: str, tokenizer: str | None, license: str | None) -> str:
    """The card of a SEED language model, with the sources of its base and its image tokenizer."""
    what = f"A SEED language model: it reads and writes texts and the codes of images ({PAPER})."
    usage = (
        "from seedtok import SeedLM", f"lm = SeedLM.from_pretrained({repo_id!r})", 'print(lm.caption("image.png"))',
        'lm.draw("a fox")[0].save("fox.png")',
    )  # fmt: skip
    return _card(repo_id, what, usage, {"Base language model": base, "Image tokenizer": tokenizer}, license)


def _card(repo_id: str, what: str, usage: tuple[str, ...], parts: dict[str, str | None], license: str | None) -> str:
    """What it is, how to load it, its parts, its license; numbers are left to who uploads it."""
    from huggingface_hub import ModelCardData

    where = {n: "in this repository" if s is None or os.path.isabs(s) else s for n, s in parts.items()}
    base = [s for s in parts.values() if s and s != MINI and not os.path.isabs(s)]
    data = ModelCardData(library_name="seedtok", license=license, tags=["seedtok"], base_model=base or None)
    return "\n\n".join((
        f"---\n{data.to_yaml()}\n---",
        f"# {repo_id.rpartition('/')[2]}",
        what,
        "\n".join(("```python", *usage, "```")),
        "\n".join(f"- {name}: {place}" for name, place in where.items()),
        f"License: {license or 'not stated; ask who uploaded this'}.",
        "Evaluation: add the numbers that you measured, such as those of `seedtok evaluate`.",
    )) + "\n"  # fmt: skip
