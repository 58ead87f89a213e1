"""Conversion of published weights to checkpoints of this package and back, for `seedtok convert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer

from seedtok.baselines.prefix_lm import PROJECTION_FILE
from seedtok.core.atomic import atomic_file
from seedtok.core.errors import CheckpointError
from seedtok.core.files import assign_strictly, read_json, write_tensors
from seedtok.core.images import Interpolation
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.weights import blip2, official
from seedtok.weights.official import Heads
from seedtok.weights.sources import TOKENIZER_FILES, read_folder, read_official_files, tokenizer_folder


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion: `left_out` maps unused tensors to the reasons, and `notes` are for the user."""

    kind: str
    tensors: int
    parameters: int
    left_out: dict[str, str]
    notes: list[str]


def convert(
    sources: Sequence[Path],
    out: Path,
    heads: Heads | None = None,
    image_decoder: str | None = None,
    text_tokenizer: str | None = None,
    interpolation: Interpolation | None = None,
) -> Conversion:
    """Writes a checkpoint of this package from published weights.

    Args:
        sources: the files of a published SEED tokenizer, or one folder of BLIP-2 in the format of transformers.
        out: the folder of the new checkpoint.
        heads: the numbers of attention heads, where they are not the published ones.
        image_decoder: folder or hub id of an image decoder, to use instead of the one of the published tokenizer.
        text_tokenizer: folder or hub id of BERT's tokenizer, for a checkpoint with a text branch and no tokenizer.
        interpolation: how images are stretched to squares; by default "bicubic", which the paper's tokenizer and AnyGPT
            take, but "bilinear" for the successor's, which SEED-LLaMA was trained with.

    Raises:
        CheckpointError: other sources; a tensor that is missing, of another shape, or unknown.
    """
    if len(sources) == 1 and sources[0].is_dir():
        return _convert_blip2(sources[0], out, text_tokenizer)
    tensors = read_official_files(sources)
    config, state = official.read_official(tensors, heads)
    if image_decoder is not None:
        config = replace(config, image_decoder=image_decoder)
    if interpolation is not None:
        vision = replace(config.embedder.vision, interpolation=interpolation)
        config = replace(config, embedder=replace(config.embedder, vision=vision))
    words, notes = _text_tokenizer(config.embedder, text_tokenizer, None)
    with torch.device("meta"):
        model = SeedTokenizer(config, words)
    _assign(model, state, ", ".join(map(str, sources)))
    model.save_pretrained(out)
    notes += [
        f"images are stretched to squares by {config.embedder.vision.interpolation} interpolation (--interpolation)",
        f"image decoder: {config.image_decoder}; another can be given with --image-decoder",
    ]
    successor = "pos_embed_image" in tensors
    kind = "the successor of SEED" if successor else "SEED, as in the paper"
    return _report(kind, tensors, model, official.left_out(tensors), notes)


def export(model: SeedTokenizer, out: Path) -> tuple[int, list[str]]:
    """Writes a tokenizer in the published format, a .pth file with the tensors under "model".

    Returns the number of tensors, and the names of ours that are left out. Raises CheckpointError for a tokenizer with
    parts that the published one does not have.
    """
    tensors = official.to_official(model.config, model.state_dict())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as temporary:
            torch.save({"model": {name: tensor.contiguous() for name, tensor in tensors.items()}}, temporary)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {out}: {error}") from None
    return len(tensors), official.without_place(model.config, model.state_dict())


def _convert_blip2(folder: Path, out: Path, text_tokenizer: str | None) -> Conversion:
    if (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} is a diffusion model, which needs no conversion: give it as --image-decoder")
    record = read_json(folder / "config.json")
    kind = record.get("model_type")
    if kind != "blip-2":
        raise CheckpointError(f"{folder} is a model of type {kind!r}; expected blip-2 (an LM needs no conversion)")
    tensors = read_folder(folder)
    config, state = blip2.read_blip2(tensors, record)
    words, notes = _text_tokenizer(config, text_tokenizer, folder)
    with torch.device("meta"):
        model = ImageTextEmbedder(config, words)
    _assign(model, state, str(folder))
    model.save_pretrained(out)
    if config.projection is not None:
        notes.append("temperature: not in the checkpoint, so set to 0.07, its initial value in training")
    projection = blip2.read_projection(tensors)
    if projection:
        with atomic_file(out / PROJECTION_FILE) as temporary:
            write_tensors(temporary, projection)
        notes.append(
            f"written to {PROJECTION_FILE}: language_projection, the initial FC layer of a BLIP-2 baseline with "
            "the same language model"
        )
    return _report("BLIP-2", tensors, model, blip2.LEFT_OUT, notes)


def _text_tokenizer(
    config: EmbedderConfig, given: str | None, folder: Path | None
) -> tuple[BertTokenizer | None, list[str]]:
    """BERT's tokenizer for a text branch, the given one or else that of the folder, and notes for the user.

    Raises CheckpointError for one that cannot be loaded, or does not match the text branch.
    """
    count = config.qformer.vocab_size
    if count is None:
        if given is not None:
            raise CheckpointError("this checkpoint has no text branch: leave --text-tokenizer out")
        return None, ["no text branch, so captions cannot be embedded"]
    own = folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES)
    source = given if given is not None or not own else str(folder)
    if source is None:
        return None, [
            f"no text tokenizer ({' or '.join(TOKENIZER_FILES)}), so captions cannot be embedded: convert again with "
            "--text-tokenizer FOLDER_OR_ID, such as bert-base-uncased"
        ]
    try:
        words = BertTokenizer.from_pretrained(str(tokenizer_folder(source)))
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"cannot load a text tokenizer from {source}: {reason}") from None
    missing = [token for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]") if token not in words.get_vocab()]
    own = len(words) - sum(number >= count for number in words.get_added_vocab().values())  # BLIP-2 added "<image>"
    if missing or own > count:
        what = f"lacks {missing[0]}" if missing else f"has {own} words; the text branch has {count}"
        raise CheckpointError(f"the text tokenizer of {source} does not match this checkpoint: it {what}")
    return words, [f"text tokenizer: {len(words)} words, from {source}"]


def _assign(model: torch.nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Loads a state dict in its own dtype, or in float32 where it has several."""
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    dtype = torch.float32 if len(kinds) > 1 else kinds.pop()
    assign_strictly(model, state, where, {"": dtype, "codebook.": torch.float32})


def _report(
    kind: str, tensors: dict[str, Tensor], model: torch.nn.Module, known: dict[str, str], notes: list[str]
) -> Conversion:
    reasons = {name: reason for name in tensors for start, reason in known.items() if name.startswith(start)}
    return Conversion(kind, len(tensors), sum(p.numel() for p in model.parameters()), reasons, notes)
