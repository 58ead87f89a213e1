"""The joint language model of Figure 4, in tensors: a causal LM of transformers over text ids and visual codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from seedtok.core.errors import InputError
from seedtok.core.records import encodable
from seedtok.lm.adapter import AdaptedLM, VisualAdapter
from seedtok.lm.base import cache_argument, output_head, pad_id, start_ids, word_embedding
from seedtok.lm.logit_map import measure_logit_map
from seedtok.lm.native import TokenNames
from seedtok.lm.opt import added_to_scores
from seedtok.lm.packing import Packed, block_causal_mask
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.given_codes import Codes, as_integers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seedtok.lm.cache import PreallocatedCache


class JointLM(AdaptedLM):
    """A causal LM over the joint vocabulary, with its text tokenizer.

    Visual ids have either the paper's parametrisation, an `adapter` beside the LM's own embedding and head, or, where
    `adapter` is None, rows of the LM's own embedding and head, as in a plain language model (`plain.fold`) and in
    SEED-LLaMA. Of the parameters, those of LoRA and of the adapter train; the LM's own stay as they are.
    """

    def __init__(
        self,
        network: PreTrainedModel | PeftModel,
        text_tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        adapter: VisualAdapter | None = None,
        names: TokenNames | None = None,
    ):
        super().__init__()
        self.network = network  # the LM, in peft's wrapper where it has LoRA
        self.text_tokenizer = text_tokenizer
        self.vocabulary = vocabulary
        self.adapter = adapter
        self.names = names  # of the visual ids in the text tokenizer, where prompts are tokenized with them
        self.logit_map = measure_logit_map(self.lm)
        self.before_states: list[Callable[[], object]] = []  # called before `states`; one that raises ends it

    # ------------------------------------------------------------ parts

    @property
    def device(self) -> torch.device:
        return word_embedding(self.lm).weight.device

    @property
    def context(self) -> int:
        """The longest sequence the LM takes, in ids."""
        return int(getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 1 << 20)

    # ------------------------------------------------------------ ids

    @property
    def pad_id(self) -> int:
        """The id that pads a row."""
        return pad_id(self.text_tokenizer)

    @property
    def end_ids(self) -> list[int]:
        """The ids that end a text: those of the LM's generation config, and the text tokenizer's own."""
        config, words = self.lm.generation_config, cast(Any, self.text_tokenizer)
        named = None if config is None else config.eos_token_id
        ids = [] if named is None else [named] if isinstance(named, int) else list(named)
        stops = words.convert_tokens_to_ids([] if self.names is None else list(self.names.stops))
        own = [words.eos_token_id, *(stop for stop in stops if stop != words.unk_token_id)]
        return list(dict.fromkeys([*ids, *(i for i in own if i is not None)]))

    @property
    def start_ids(self) -> list[int]:
        """The id that begins every sequence, where the LM has one."""
        return start_ids(self.text_tokenizer)

    def text_ids(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return cast(list[int], self.text_tokenizer(encodable(text), add_special_tokens=False).input_ids)

    def text_of(self, ids: list[int]) -> str:
        """The text of ids, without special tokens and those that end a text."""
        stops = self.end_ids
        return cast(str, self.text_tokenizer.decode([i for i in ids if i not in stops], skip_special_tokens=True))

    def sequence(self, segments: Sequence[str | Codes]) -> list[int]:
        """Texts and codes (32,) of any integer type in their order -> the ids of one sequence, with the start id first.

        Raises InputError when it is longer than the LM's context, or for what is no codes of an image.
        """
        if self.names is not None:
            ids = self._named(segments, self.names)
        else:
            ids = self.start_ids
            for segment in segments:
                ids += self.text_ids(segment) if isinstance(segment, str) else self.image_ids(segment)
        self.check_length(len(ids))
        return ids

    def _named(self, segments: Sequence[str | Codes], names: TokenNames) -> list[int]:
        """The ids of one text in which images are the names of their codes: how words around them are split counts."""
        for segment in segments:
            if not isinstance(segment, str):
                self.image_ids(segment)  # raises InputError where these are no codes of an image
        parts = [s if isinstance(s, str) else names.image(as_integers(s).tolist()) for s in segments]
        return self.text_ids("".join([cast(str | None, self.text_tokenizer.bos_token) or "", *parts]))

    def image_ids(self, codes: Codes) -> list[int]:
        """Codes (32,) of any integer type -> the ids of an image: begin, codes, end.

        Raises InputError as `Vocabulary.image_ids` does.
        """
        return self.vocabulary.image_ids(as_integers(codes).cpu()).tolist()

    def check_length(self, length: int, new: int = 0) -> None:
        """Raises InputError where a prompt of `length` ids, and `new` ones after it, exceed the LM's context."""
        if length + new > self.context:
            room = f" and {new} to come" if new else ""
            raise InputError(f"a prompt of {length} tokens{room}; this model takes {self.context}: shorten it")

    # ------------------------------------------------------------ Figure 4, in tensors

    def embed(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t width"]:
        """Ids of the joint vocabulary -> the LM's input embeddings."""
        embedding = word_embedding(self.lm)
        return embedding(ids) if self.adapter is None else self.adapter.embed(ids, embedding)

    def states(
        self,
        embeddings: Float[Tensor, "b t width"],
        mask: Tensor | None = None,
        position_ids: Int[Tensor, "b t"] | None = None,
        cache: PreallocatedCache | None = None,
    ) -> Float[Tensor, "b t hidden"]:
        """Input embeddings -> the decoder's last states, of which all logits are made.

        `mask` has ones and zeros, (B, T so far), or is boolean, (B, 1, T, T so far). `cache` is extended; position ids
        have to be given with it.
        """
        for call in self.before_states:
            call()
        if mask is not None and mask.dtype == torch.bool:  # some models add a 4-D mask to their scores
            mask = added_to_scores(mask, embeddings.dtype)
        if cache is not None and position_ids is not None and cache.decoder is not None:
            return cache.decoder(embeddings, mask, position_ids, cache.own_layers)
        decoder = self.lm.base_model
        given = {"position_ids": position_ids, cache_argument(type(decoder)): cache}
        out = decoder(
            inputs_embeds=embeddings, attention_mask=mask, use_cache=cache is not None,
            **{name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
        return out.last_hidden_state

    def text_logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b text"]:
        """Logits of the text ids alone."""
        if self.adapter is None:
            return self._own_logits(states, slice(0, self.vocabulary.text))
        return self.logit_map.logits(states, output_head(self.lm))

    def code_logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b codes"]:
        """Logits of the codes alone: within an image there is nothing else to predict."""
        if self.adapter is None:
            return self._own_logits(states, self.vocabulary.code_slice)
        return self.logit_map.cap_logits(self.adapter.code_logits(states))

    def logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b all"]:
        """Logits of the whole joint vocabulary."""
        if self.adapter is None:
            return self.logit_map.logits(states, output_head(self.lm))
        text = self.text_logits(states)
        boundaries = self.logit_map.cap_logits(self.adapter.boundary_logits(states))
        return torch.cat([text, self.code_logits(states).to(text.dtype), boundaries.to(text.dtype)], dim=-1)

    def _own_logits(self, states: Float[Tensor, "*b hidden"], rows: slice) -> Float[Tensor, "*b n"]:
        """Logits by some rows of the LM's own head."""
        head = output_head(self.lm)
        bias = None if head.bias is None else head.bias[rows]
        return self.logit_map.logits(states, lambda inputs: F.linear(inputs, head.weight[rows], bias))

    def loss(self, rows: Packed, weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Mean next-token cross-entropy over the targets of packed rows, weighted where `weights` are given.

        Each sequence attends to itself alone, from position 0.
        """
        mask, positions = block_causal_mask(rows.segments)
        states = self.states(self.embed(rows.ids), mask, positions)
        logits = self.logits(rows.predicting(states)).float()
        if weights is None:
            return F.cross_entropy(logits, rows.targets)
        return F.cross_entropy(logits, rows.targets, reduction="none") @ weights / weights.sum()
