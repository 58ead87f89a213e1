"""Published weights in, and out again: what `seedtok convert` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertTokenizer

from seedtok.baselines.blip2 import PROJECTION_FILE
from seedtok.core.errors import CheckpointError
from seedtok.core.files import assign_strictly, read_json
from seedtok.core.writing import whole_file
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.weights import blip2, official
from seedtok.weights.official import Heads
from seedtok.weights.sources import TOKENIZER_FILES, read_folder, read_official_files, tokenizer_folder


@dataclass(frozen=True)
class Conversion:
    """What was made of what: `left_out` has the names of tensors that were not used, and why; `notes` are for users."""

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
) -> Conversion:
    """Published SEED files, or a folder of BLIP-2 in transformers' format -> a folder of ours.

    `image_decoder` takes the place of the one that the checkpoint was trained for. `text_tokenizer`, a folder or hub
    id, is BERT's, for a checkpoint with a text branch that comes without one. Raises CheckpointError for anything else,
    and for a tensor that is missing, of another shape, or not known.
    """
    if len(sources) == 1 and sources[0].is_dir():
        return _convert_blip2(sources[0], out, text_tokenizer)
    tensors = read_official_files(sources)
    config, state = official.read_official(tensors, heads)
    if image_decoder is not None:
        config = replace(config, image_decoder=image_decoder)
    words, notes = _text_tokenizer(config.embedder, text_tokenizer, None)
    with torch.device("meta"):
        model = SeedTokenizer(config, words)
    _assign(model, state, ", ".join(map(str, sources)))
    model.save_pretrained(out)
    notes += [f"image decoder: {config.image_decoder}; another can be given with --image-decoder"]
    successor = config.image_head is not None or "pos_embed_image" in tensors
    return _report("SEED's successor" if successor else "SEED, the paper's", tensors, model, official.LEFT_OUT, notes)


def export(model: SeedTokenizer, out: Path) -> tuple[int, list[str]]:
    """Writes a tokenizer of ours as a published one, under ["model"].

    Returns how many tensors it has, and the names of ours that the published layout has no place for. Raises
    CheckpointError for a tokenizer that the layout cannot hold at all.
    """
    tensors = official.to_official(model.config, model.state_dict())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as temporary:
            torch.save({"model": {name: tensor.contiguous() for name, tensor in tensors.items()}}, temporary)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {out}: {error}") from None
    return len(tensors), official.without_place(model.config, model.state_dict())


def _convert_blip2(folder: Path, out: Path, text_tokenizer: str | None) -> Conversion:
    if (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} is a diffusion model, which is used as it is: give it as --image-decoder")
    record = read_json(folder / "config.json")
    kind = record.get("model_type")
    if kind != "blip-2":
        raise CheckpointError(f"{folder} is a model of type {kind!r}; a BLIP-2 is converted, an LM is used as it is")
    tensors = read_folder(folder)
    config, state = blip2.read_blip2(tensors, record)
    words, notes = _text_tokenizer(config, text_tokenizer, folder)
    with torch.device("meta"):
        model = ImageTextEmbedder(config, words)
    _assign(model, state, str(folder))
    model.save_pretrained(out)
    if config.projection is not None:
        notes.append("temperature: not in the checkpoint; 0.07, where its training began")
    projection = blip2.read_projection(tensors)
    if projection:
        with whole_file(out / PROJECTION_FILE) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in projection.items()}, temporary)
        notes.append(
            f"kept in {PROJECTION_FILE}: language_projection, through which a BLIP-2 baseline on the same language "
            "model starts to read the queries"
        )
    return _report("BLIP-2", tensors, model, blip2.LEFT_OUT, notes)


def _text_tokenizer(
    config: EmbedderConfig, given: str | None, folder: Path | None
) -> tuple[BertTokenizer | None, list[str]]:
    """BERT's tokenizer for a text branch, the given one or else the folder's own, and what to say of it.

    Raises CheckpointError for one that cannot be loaded, or does not fit the text branch.
    """
    count = config.qformer.vocab_size
    if count is None:
        if given is not None:
            raise CheckpointError("this checkpoint has no text branch, so it takes no --text-tokenizer")
        return None, ["no text branch, so no text tokenizer: it embeds no captions"]
    own = folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES)
    source = given if given is not None or not own else str(folder)
    if source is None:
        return None, [
            f"no text tokenizer is there ({' or '.join(TOKENIZER_FILES)}), so captions cannot be embedded: convert "
            "again with --text-tokenizer FOLDER_OR_ID, such as bert-base-uncased"
        ]
    try:
        words = BertTokenizer.from_pretrained(str(tokenizer_folder(source)))
    except CheckpointError:
        raise
    except Exception as error:  # of a broken file the tokenizers library raises plain Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"cannot load a text tokenizer from {source}: {reason}") from None
    missing = [token for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]") if token not in words.get_vocab()]
    if missing or len(words) > count:
        what = f"lacks {missing[0]}" if missing else f"has {len(words)} words; the text branch has {count}"
        raise CheckpointError(f"the text tokenizer of {source} is not BERT's as this checkpoint's: it {what}")
    return words, [f"text tokenizer: {len(words)} words, from {source}"]


def _assign(model: torch.nn.Module, state: dict[str, Tensor], where: str) -> None:
    """In the checkpoint's own precision."""
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    dtype = torch.float32 if len(kinds) > 1 else kinds.pop()
    assign_strictly(model, state, where, {"": dtype, "codebook.": torch.float32})


def _report(
    kind: str, tensors: dict[str, Tensor], model: torch.nn.Module, known: dict[str, str], notes: list[str]
) -> Conversion:
    reasons = {name: reason for name in tensors for start, reason in known.items() if name.startswith(start)}
    return Conversion(kind, len(tensors), sum(p.numel() for p in model.parameters()), reasons, notes)
