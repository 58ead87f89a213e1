"""A SEED language model as transformers knows one: the plain language model, and the image tokenizer beside it."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from seedtok.core.errors import CheckpointError, InputError
from seedtok.core.hub import downloaded, locate, named_part
from seedtok.lm.auto.config import SeedLMConfig
from seedtok.lm.auto.spans import ImageSpans
from seedtok.lm.plain_files import check_codebook, encoder_of, warn_of_another_encoder
from seedtok.tokenizer.seed import SeedTokenizer

CODE = "seedtok_auto.py"  # in a folder: where the classes are
IMPORTS = "from seedtok import SeedLMConfig, SeedLMForConditionalGeneration, SeedProcessor  # noqa: F401\n"
AUTO_MAP = {
    "AutoConfig": "seedtok_auto.SeedLMConfig",
    "AutoModelForImageTextToText": "seedtok_auto.SeedLMForConditionalGeneration",
    "AutoModelForMultimodalLM": "seedtok_auto.SeedLMForConditionalGeneration",
    "AutoProcessor": "seedtok_auto.SeedProcessor",
}
NEW_TOKENS = 64  # where neither a call nor the generation config says how many


class SeedLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Continues texts and images by texts and images, through transformers' own `generate`.

    Its weights are those of the causal LM. The image tokenizer is read when it is first used, from where the
    configuration says, in the model's dtype, and follows its device.
    """

    config_class = SeedLMConfig
    # images come as pixels in the size of the image tokenizer; where a model names "image" here, pipelines want
    # torchvision, which nothing here uses
    input_modalities = "text"
    output_modalities = ("text", "image")
    supports_gradient_checkpointing = True  # where the causal LM does
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: SeedLMConfig):
        super().__init__(config)
        self.language_model: Any = AutoModelForCausalLM.from_config(config.text_config)
        self._image_tokenizers: list[SeedTokenizer] = []  # in a list, so that it is no part of this module's state
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @property
    def image_tokenizer(self) -> SeedTokenizer:
        """The image tokenizer, on the model's device; raises CheckpointError where it is missing or another one."""
        if not self._image_tokenizers:
            name, entry = self.config.name_or_path or "", self.config.seedtok
            if not name:
                raise CheckpointError(
                    "this model is of no folder that names an image tokenizer: use_image_tokenizer(seed)"
                )
            folder = Path(name) if Path(name).is_dir() else downloaded(name)
            source = locate(named_part(entry, "tokenizer", folder), "tokenizer", folder)
            self.use_image_tokenizer(SeedTokenizer.from_pretrained(source, dtype=self.dtype))
        seed = self._image_tokenizers[0]
        return seed if seed.device == self.device else seed.to(self.device)

    def use_image_tokenizer(self, seed: SeedTokenizer) -> None:
        """Sets the image tokenizer, instead of loading the one that the configuration names.

        Raises CheckpointError for one of another codebook than the model's; a SeedTokWarning is of another encoder.
        """
        name = self.config.name_or_path or "this model"
        check_codebook(self.config.seedtok, seed, name)
        warn_of_another_encoder(self.config.seedtok, seed, name)
        self._image_tokenizers = [seed]

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Writes the model as transformers does, and the image tokenizer beside it, in the sub-folder "tokenizer".

        One that is on a hub, or shipped with this package, stays where it is. `options` are those of transformers.
        """
        seed, folder = self.image_tokenizer, Path(save_directory)
        source = seed.unchanged_source
        is_copied = source is None or os.path.isabs(source)
        named = {"tokenizer": "tokenizer" if is_copied else source, "encoder": encoder_of(seed, is_copied)}
        self.config.seedtok = self.config.seedtok | named
        self.config.auto_map = AUTO_MAP
        super().save_pretrained(save_directory, **options)
        if is_copied:
            seed.save_pretrained(folder / "tokenizer", standalone=True)
        (folder / CODE).write_text(
            f'"""Lets transformers load this folder with trust_remote_code=True."""\n\n{IMPORTS}'
        )

    # ------------------------------------------------------------ images and ids

    @torch.no_grad()
    def get_image_tokens(self, pixel_values: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Normalised pixels -> the ids of their codes (B, 32)."""
        seed = self.image_tokenizer
        codes = seed.encode_pixels(pixel_values.to(seed.device, seed.dtype))
        return self.config.vocabulary.code_ids(codes)

    @torch.no_grad()
    def decode_image_tokens(
        self, image_tokens: Int[Tensor, "b n"], generator: torch.Generator | list[torch.Generator] | None = None
    ) -> list[Image.Image]:
        """Ids of codes (B, 32) -> images; `generator` is the image decoder's.

        Raises InputError for other ids, or other than 32 an image.
        """
        return self.image_tokenizer.decode(self.config.vocabulary.codes_of(image_tokens), generator=generator)

    def with_codes(
        self, ids: Int[Tensor, "b t"], pixel_values: Float[Tensor, "n 3 h w"] | None
    ) -> Int[Tensor, "b t"]:  # fmt: skip
        """Ids with those of the images' codes in the places that the processor left for them, in their order.

        Raises InputError where there are more or fewer places than codes.
        """
        places = ids == self.config.image_token_id
        codes = self.get_image_tokens(pixel_values).flatten() if pixel_values is not None else ids.new_zeros(0)
        if int(places.sum()) != len(codes):
            raise InputError(
                f"{len(codes)} codes of images for {int(places.sum())} places in the ids: give the processor's "
                "input_ids and pixel_values together"
            )
        return ids.masked_scatter(places, codes.to(ids))

    # ------------------------------------------------------------ Figure 4

    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Float[Tensor, "n 3 h w"] | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Ids and the pixels of their images -> logits of the joint vocabulary, and a loss where there are labels.

        In `labels`, places of images stand for their codes, and -100 for what is not predicted. `options` are further
        ones of the causal LM, such as `inputs_embeds` in place of ids, and what `Trainer` and peft give it.
        """
        ids = None if input_ids is None else self.with_codes(input_ids, pixel_values)
        if labels is not None and ids is not None:
            labels = torch.where(labels == self.config.image_token_id, ids, labels)
        options = {"use_cache": False} | options
        return self.language_model(input_ids=ids, attention_mask=attention_mask, labels=labels, **options)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Tensor | None = None,
        pixel_values: Float[Tensor, "n 3 h w"] | None = None,
        generation_mode: str | None = "text",
        max_new_tokens: int | None = None,
        max_images: int = 4,
        generation_config: GenerationConfig | None = None,
        **options: Any,
    ) -> Any:
        """Continues prompts of texts and images.

        Args:
            input_ids: as of `SeedProcessor`.
            attention_mask: as of `SeedProcessor`.
            pixel_values: as of `SeedProcessor`.
            generation_mode: "text"; "image", one image a row; None, texts and images by turns.
            max_new_tokens: the most new ids, the 34 of each image among them; fewer where the LM's context ends. An
                image is always begun, 32 codes and ended, and is not begun where it does not fit.
            max_images: the most images of a row where texts and images are mixed.
            generation_config: in place of the model's own.
            options: further ones of transformers' `generate`.

        Returns:
            Of "image" the ids of the codes (B, 32); else ids as of transformers' `generate`, prompts first.

        Raises:
            InputError: another mode, a prompt too long for the LM, or places and pixels that do not match.
        """
        if generation_mode not in ("text", "image", None):
            raise InputError(f"generation_mode {generation_mode!r}: give 'text', 'image' or None")
        vocabulary, draws = self.config.vocabulary, generation_mode == "image"
        settings = copy.deepcopy(self.generation_config)
        if generation_config is not None:
            settings.update(**generation_config.to_diff_dict())
        ids = self.with_codes(input_ids, pixel_values)
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        if draws:
            ids = torch.cat([ids, ids.new_full((len(ids), 1), vocabulary.begin)], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        wanted = vocabulary.span if draws else max_new_tokens or settings.max_new_tokens or NEW_TOKENS
        new = self._new_tokens(ids.shape[1], wanted, vocabulary.span if draws else 1)
        max_images = max_images if generation_mode is None else 0
        rules = options.pop("logits_processor", None) or []
        options = settings.update(**options, max_new_tokens=new)  # what is no setting
        spans = ImageSpans(vocabulary, ids.shape[1] - draws, new + draws, max_images, settings.eos_token_id)
        processors = LogitsProcessorList([*rules, spans])
        found = self.language_model.generate(
            input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors, **options
        )
        sequences = found if isinstance(found, Tensor) else found.sequences
        if draws:
            return sequences[:, ids.shape[1] :]
        sequences[:, : ids.shape[1]] = input_ids.repeat_interleave(len(sequences) // len(ids), dim=0)
        return found

    def _new_tokens(self, length: int, wanted: int, least: int) -> int:
        """How many ids may follow a prompt of `length` ids, in the LM's context.

        Raises InputError where there is no room for `least` of them.
        """
        if length + least > self.config.context:
            raise InputError(
                f"a prompt of {length} tokens and {least} to come; this model takes {self.config.context}: shorten it"
            )
        return min(wanted, self.config.context - length)
