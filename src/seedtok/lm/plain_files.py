"""The files of a plain language model (`plain.fold`): those of transformers, with a "seedtok" entry in config.json.

The entry has the version of its format, the layout of the visual ids, and the image tokenizer that they belong to, with
its codebook and its encoder.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtok.core.checkpoint import check_version
from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_json
from seedtok.core.hub import downloaded, recorded, without_paths
from seedtok.core.notices import warn
from seedtok.core.records import from_record
from seedtok.lm.base import Weights, load_base, word_embedding
from seedtok.lm.chat_template import chat_template_of
from seedtok.lm.model import JointLM
from seedtok.lm.native import IMAGE_TOKENIZER, PLAIN, SEED_LLAMA_IDS, Template, TokenNames, find_layout
from seedtok.lm.plain import extended_tokenizer, fold
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.fingerprint import fingerprint
from seedtok.tokenizer.seed import SeedTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENTRY, VERSION = "seedtok", 1


def entry_of(model: JointLM, seed: SeedTokenizer, template: Template) -> dict[str, Any]:
    """What config.json says under "seedtok": all but the image tokenizer's place and encoder.

    That is which ids are visual (`Vocabulary`), which codebook they belong to, and how the model is asked.
    """
    entry: dict[str, Any] = {"version": VERSION, "layout": asdict(model.vocabulary), "codebook": seed.codebook_id}
    if model.names is not None:
        entry["names"] = asdict(model.names)
    return entry | template.entry()


def write_plain(
    model: JointLM, seed: SeedTokenizer, new: Path, folder: Path, template: Template = PLAIN
) -> None:  # fmt: skip
    """Writes the plain language model into the existing folder `new`, which will be moved to `folder`."""
    lm = fold(model)
    entry = entry_of(model, seed, template)
    entry |= write_image_tokenizer(seed, new, folder)
    setattr(lm.config, ENTRY, entry)
    lm.save_pretrained(new)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer: Any = model.text_tokenizer
        if model.adapter is not None:
            tokenizer = extended_tokenizer(model, Path(scratch))
            tokenizer.chat_template = chat_template_of(template)  # for servers
        tokenizer.save_pretrained(str(new))
    without_paths(new)


def write_image_tokenizer(
    seed: SeedTokenizer, new: Path, folder: Path, standalone: bool = False, hub_id: str | None = None
) -> dict[str, str]:
    """What config.json says of the image tokenizer: its name, and its encoder. It is written where no source has it.

    `new` will be moved to `folder`. `standalone` writes it where its source is a folder of this machine, too. `hub_id`
    is one to name in place of its own.
    """
    source = hub_id or seed.unchanged_source
    if source is None or (standalone and os.path.isabs(source)):
        (new / "tokenizer").mkdir()
        seed.write_files(new / "tokenizer", folder / "tokenizer", standalone)
        return {"tokenizer": "tokenizer", "encoder": encoder_of(seed, is_copied=True)}
    return {"tokenizer": recorded(source, "tokenizer", folder, new), "encoder": encoder_of(seed, is_copied=False)}


def encoder_of(seed: SeedTokenizer, is_copied: bool) -> str:
    """The fingerprint that an image tokenizer's encoder will have once it is loaded again.

    That of its source, or of a copy, which is written in the dtype that it has now.
    """
    if not is_copied:
        return seed.encoder_fingerprint
    config = seed.config
    return fingerprint(seed.state_dict(), config.code_order, config.embedder.vision.interpolation, None)


def check_codebook(entry: dict[str, Any], seed: SeedTokenizer, folder: Path | str) -> None:
    """Raises CheckpointError where a language model is of another codebook than an image tokenizer."""
    if seed.codebook_id != entry.get("codebook"):
        raise CheckpointError(
            f"{folder} was made for another codebook than this image tokenizer's: give the one it was trained with"
        )


def warn_of_another_encoder(entry: dict[str, Any], seed: SeedTokenizer, folder: Path | str) -> None:
    """Warns where a language model read the codes of another encoder; older files do not say which it was."""
    if entry.get("encoder") not in (None, seed.encoder_fingerprint):
        warn(
            f"{folder} was made for the codes of another encoder than this image tokenizer's, with the same codebook: "
            "it may misread images; give the image tokenizer it was trained with, or train it on the codes of this one"
        )


def read_plain(folder: Path, entry: dict[str, Any], seed: SeedTokenizer, weights: Weights) -> tuple[JointLM, str]:
    """Loads a plain language model, and says where it is; `entry` is under "seedtok" in its config.json.

    Raises CheckpointError for a broken folder, another codebook, or the format of a newer release.
    """
    check_version(entry.get("version", 1), VERSION, folder)
    layout = from_record(Vocabulary, entry.get("layout"), f"visual ids in {folder / 'config.json'}")
    check_codebook(entry, seed, folder)
    lm, text_tokenizer = load_base(str(folder.resolve()), weights.dtype, weights.quantization)
    _check_rows(lm, layout, folder)
    names = from_record(TokenNames, entry["names"], "names of visual ids") if "names" in entry else None
    return JointLM(lm, text_tokenizer, layout, names=names), str(folder.resolve())


def read_native(folder: Path, seed: SeedTokenizer, weights: Weights) -> tuple[JointLM, str]:
    """Loads a published model that has the codes as tokens of its own, and says where it is.

    SEED-LLaMA and AnyGPT are such. Raises CheckpointError where it has none, or not as many as the image tokenizer.
    """
    lm, text_tokenizer = load_base(str(folder.resolve()), weights.dtype, weights.quantization, _words_beside(folder))
    found = find_layout(text_tokenizer, seed.config.embedder.qformer.queries)
    if found is None:
        raise CheckpointError(f"{folder} is a language model without codes: train SEED-OPT on it, with stage.base")
    layout, names = found
    if layout.codes != len(seed.codebook.weight):
        raise CheckpointError(f"{folder} has {layout.codes} codes, and the image tokenizer {len(seed.codebook.weight)}")
    _check_rows(lm, layout, folder)
    return JointLM(lm, text_tokenizer, layout, names=names), str(folder.resolve())


def _words_beside(folder: Path) -> Path | None:
    """The folder of the text tokenizer of an instructed SEED-LLaMA, which is published with its image tokenizer.

    None for a folder that has one, or that is no SEED-LLaMA.
    """
    if any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")):
        return None
    if read_json(folder / "config.json").get("vocab_size") != SEED_LLAMA_IDS:
        return None
    try:
        return downloaded(IMAGE_TOKENIZER, "tokenizer.model", patterns=["*.json", "tokenizer.model"])
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} has no text tokenizer: copy the one of {IMAGE_TOKENIZER} into it ({error})"
        ) from None


def _check_rows(lm: PreTrainedModel, layout: Vocabulary, folder: Path) -> None:
    if (rows := word_embedding(lm).num_embeddings) < layout.size:
        raise CheckpointError(f"{folder} has {rows} embeddings; its visual ids go up to {layout.size - 1}")
