"""The command that writes a SEED language model for transformers and for other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seedtok.cli.lm import Base, Chat, Model, Tokenizer, load_lm
from seedtok.cli.support import Dtype, Precision, check_folder, say


def export(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.", show_default=False)],
    model: Model = "mini",
    plain: Annotated[
        bool, typer.Option("--plain", help="An ordinary causal language model: texts, and the names of codes.")
    ] = False,
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    dtype: Dtype = Precision.float32,
) -> None:
    """Write a SEED language model as a folder for transformers, or with --plain for any server of causal LMs.

    pipeline("any-to-any", model=DIR) and the Auto classes read and write texts and images. With --plain,
    AutoModelForCausalLM, `transformers serve`, vLLM and SGLang take the folder.
    """
    from seedtok.core.kinds import family_of
    from seedtok.core.locks import locked
    from seedtok.lm.auto.config import SeedLMConfig

    def is_ours(folder: Path) -> bool:
        family, config = family_of(folder)
        return "seedtok" in config and (family != SeedLMConfig.model_type) == plain

    check_folder(out, is_ours, f"language model exported {'with' if plain else 'without'} --plain")
    lm = load_lm(model, dtype.value, "cpu", base, tokenizer, template)
    with locked(out):
        if plain:
            lm.save_plain(out)
        else:
            lm.save_transformers(out)
    classes = "AutoModelForCausalLM" if plain else 'pipeline("any-to-any"), AutoModelForMultimodalLM, AutoProcessor'
    say(f"written: {out}, for {classes}")
