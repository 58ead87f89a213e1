"""Models that put pictures and texts in one space, behind one interface: SEED, BLIP-2's Q-Former, CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.core.hub import MINI
from seedtok.core.kinds import EMBEDDER, TOKENIZER
from seedtok.core.records import encodable
from seedtok.core.text import CLEANED, clean_caption
from seedtok.evaluation.foreign import load_foreign, load_preprocessing, load_words, loader_for
from seedtok.evaluation.preprocessing import Preprocessing, stretched
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer


@runtime_checkable
class RetrievalModel(Protocol):
    """Embeds pictures and texts together, since some models take both at once; `row` is what a result calls it."""

    row: str

    @property
    def settings(self) -> dict[str, Any]:
        """How pictures and texts are prepared, for the record."""
        ...

    @property
    def device(self) -> torch.device: ...

    def embed(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings of unit length of pictures, (B, D), or (B, Q, D) of which the best counts, and of texts (T, D).

        Those of pictures by what they are made of, which is "" where a model has one kind alone.
        """
        ...


class TokenizerRetrieval:
    """A SEED tokenizer: the final causal embedding and, where it has a code decoder, what is left of it in the codes.

    Raises CheckpointError for one without the projections and the text branch of stage I.
    """

    row = "seed"

    def __init__(self, tokenizer: SeedTokenizer) -> None:
        self.tokenizer = tokenizer
        _check_text_branch(tokenizer.embedder)

    @property
    def settings(self) -> dict[str, Any]:
        return _prepared(self.tokenizer.embedder) | {"codebook": self.tokenizer.codebook_id}

    @property
    def device(self) -> torch.device:
        return self.tokenizer.device

    def embed(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        tokenizer, project = self.tokenizer, self.tokenizer.embedder.project_queries
        embeddings = tokenizer.causal_embeddings(tokenizer.pixels(list(pictures)))
        found = {"causal_embedding": project(embeddings)}
        if tokenizer.code_decoder is not None:
            vectors = tokenizer.quantize(embeddings).vectors.to(embeddings.dtype)
            found["causal_code"] = project(tokenizer.reconstructed_embeddings(vectors))
        return found, tokenizer.embed_texts([clean_caption(text) for text in texts])


class EmbedderRetrieval:
    """A Q-Former of stage I, causal or, as BLIP-2's, bidirectional: then the best of its queries counts.

    Raises CheckpointError for one without the projections and the text branch.
    """

    def __init__(self, embedder: ImageTextEmbedder) -> None:
        self.embedder = embedder
        self.row = "embedder" if embedder.config.qformer.causal else "bidirectional"
        _check_text_branch(embedder)

    @property
    def settings(self) -> dict[str, Any]:
        return _prepared(self.embedder)

    @property
    def device(self) -> torch.device:
        return self.embedder.ln_vision.weight.device

    def embed(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        embedder = self.embedder
        embeddings = embedder.qformer(embedder.patch_features(embedder.pixels(list(pictures))))
        found = embedder.project_queries(embeddings)
        return {"": found}, embedder.embed_texts([clean_caption(text) for text in texts])


class Blip2Retrieval:
    """BLIP-2's first stage as transformers has it, `Blip2ForImageTextRetrieval`; the best of its queries counts."""

    row = "blip2"

    def __init__(self, model: Any, words: Any, preprocessing: Preprocessing, max_text_tokens: int = 32) -> None:
        self.model, self.words, self.preprocessing = model, words, preprocessing
        self.max_text_tokens = max_text_tokens

    @property
    def settings(self) -> dict[str, Any]:
        texts = {"text": CLEANED, "text_tokens": self.max_text_tokens}
        return {"preprocessing": self.preprocessing.settings, **texts}

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        tokens = self.words(
            [encodable(clean_caption(text)) for text in texts],
            padding=True, truncation=True, max_length=self.max_text_tokens, return_tensors="pt",
        ).to(self.device)  # fmt: skip
        ids, mask = tokens.input_ids, tokens.attention_mask
        config = self.model.config
        if config.image_token_index is not None:  # then the model cuts off ids of a picture in front of the text
            before = ids.new_full((len(ids), config.num_query_tokens), config.image_token_index)
            ids, mask = torch.cat([before, ids], 1), torch.cat([torch.ones_like(before), mask], 1)
        pixels = self.preprocessing(pictures).to(self.device, self.model.dtype)
        out = self.model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        return {"": out.image_embeds.float()}, out.text_embeds.float()


class ClipRetrieval:
    """Any CLIP of transformers, with its own image processor and captions as they are written."""

    row = "clip"

    def __init__(self, model: Any, words: Any, preprocessing: Preprocessing) -> None:
        self.model, self.words, self.preprocessing = model, words, preprocessing

    @property
    def settings(self) -> dict[str, Any]:
        tokens = self.model.config.text_config.max_position_embeddings
        return {"preprocessing": self.preprocessing.settings, "text": "as written", "text_tokens": tokens}

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        tokens = self.words(
            [encodable(text) for text in texts], padding=True, truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings, return_tensors="pt",
        ).to(self.device)  # fmt: skip
        pixels = self.preprocessing(pictures).to(self.device, self.model.dtype)
        out = self.model(pixel_values=pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return {"": out.image_embeds.float()}, out.text_embeds.float()


def load_retrieval_model(
    name: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> RetrievalModel:
    """A model by its folder or hub id: a SEED tokenizer, an embedder of ours, a BLIP-2 or a CLIP of transformers.

    Raises CheckpointError for others, and for one that has no text branch.
    """

    def tokenizer() -> RetrievalModel:
        return TokenizerRetrieval(SeedTokenizer.from_pretrained(name, dtype=dtype, device=device))

    def embedder() -> RetrievalModel:
        return EmbedderRetrieval(ImageTextEmbedder.from_pretrained(name).to(device, dtype))

    def blip2() -> RetrievalModel:
        from transformers import Blip2ForImageTextRetrieval

        model = load_foreign(Blip2ForImageTextRetrieval, name, dtype, device)
        return Blip2Retrieval(model, load_words(name), load_preprocessing(name, model.config.vision_config.image_size))

    def clip() -> RetrievalModel:
        from transformers import CLIPModel

        model = load_foreign(CLIPModel, name, dtype, device)
        return ClipRetrieval(model, load_words(name), load_preprocessing(name, model.config.vision_config.image_size))

    loaders = {MINI: tokenizer, TOKENIZER: tokenizer, EMBEDDER: embedder, "blip-2": blip2, "clip": clip}
    return loader_for(name, loaders, "retrieval")()


def _check_text_branch(embedder: ImageTextEmbedder) -> None:
    if embedder.config.projection is None or embedder.text_tokenizer is None:
        lacks = "projections of stage I" if embedder.config.projection is None else "text branch"
        raise CheckpointError(
            f"this checkpoint has no {lacks}, so it embeds nothing for retrieval: evaluate a result of stage I or II"
        )


def _prepared(embedder: ImageTextEmbedder) -> dict[str, Any]:
    config = embedder.config
    texts = {"text": CLEANED, "text_tokens": config.max_text_tokens}
    return {"preprocessing": stretched(config.vision.square), **texts}
