"""Texts and images as the inputs of a SEED language model, and its outputs as texts and images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_utils import load_image

from seedtok.core.errors import InputError
from seedtok.core.images import Interpolation, Square
from seedtok.core.records import encodable, from_record
from seedtok.lm.chat_template import IMAGE
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.vision import normalized_pixels


class SeedProcessor(ProcessorMixin):
    """A text tokenizer that knows the visual ids, and the size of images.

    Args:
        tokenizer: with the visual tokens at their ids, and `<image>`.
        layout: the fields of `Vocabulary`.
        image_size: width and height of the image tokenizer's pixels.
        chat_template: turns messages into a prompt, in Jinja; `chat_template.chat_template_of` makes one.
        interpolation: how images are stretched to that size, `VisionConfig.interpolation`.
    """

    @no_type_check  # transformers reads the names of its arguments
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        layout: dict[str, int],
        image_size: int,
        chat_template: str | None = None,
        interpolation: Interpolation = "bicubic",
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        self.layout, self.image_size, self.interpolation = layout, image_size, interpolation
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)

    @property
    def vocabulary(self) -> Vocabulary:
        """Which ids are text, codes, begin and end of an image."""
        return from_record(Vocabulary, self.layout, "visual ids")

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        audio: None = None,
        padding: bool | str = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str = "pt",
        add_special_tokens: bool = True,
    ) -> BatchFeature:
        """Texts, with `<image>` in place of each image, and images -> input_ids, attention_mask and pixel_values.

        Args:
            images: one, a list, or a list for each text: as `SeedTokenizer.encode` takes them, or a URL or base64.
            text: one text or a list. Ids begin with the LM's start id, where it has one, and are padded on the left.
            videos: not supported.
            audio: not supported.
            padding: accepted as by other processors; rows of different lengths are always padded.
            truncation: whether texts of more than `max_length` ids are cut there.
            max_length: the most ids of a text, where they are cut.
            return_tensors: "pt", the only one.
            add_special_tokens: accepted as by other processors; no other special token is added.

        Raises:
            InputError: no text, other than as many `<image>` as images, an image that would be cut, or another kind of
                input or tensor.
        """
        if videos is not None or audio is not None or return_tensors != "pt" or text is None:
            raise InputError("expected text, and images if there are any, as tensors of PyTorch (return_tensors='pt')")
        texts = [text] if isinstance(text, str) else list(text)
        pictures = [_opened(image) for image in _flat(images)]
        if (places := sum(one.count(IMAGE) for one in texts)) != len(pictures):
            raise InputError(f"{len(pictures)} images for {places} of {IMAGE} in the text: give one for each")
        begin, end = self._boundaries
        whole = [one.replace(IMAGE, begin + IMAGE * self.vocabulary.span + end) for one in texts]
        rows = [self._ids(one) for one in whole]
        if truncation and max_length is not None:
            if any(self.image_token_id in row[max_length:] for row in rows):
                raise InputError(
                    f"an image is beyond the {max_length} tokens of max_length: raise it, or shorten the text"
                )
            rows = [row[:max_length] for row in rows]
        inputs: Any = self.tokenizer.pad({"input_ids": rows}, padding=True, padding_side="left", return_tensors="pt")
        data = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        if pictures:
            data["pixel_values"] = normalized_pixels(pictures, Square(self.image_size, self.interpolation))
        return BatchFeature(data)

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[Any]:
        """What the model made, as texts, or as the images that `decode_image_tokens` drew.

        In a text, an image that was made is the names of its codes, which `segments` tells from words; an image of the
        prompt is left out. The arguments are those of transformers' processors. Raises InputError for another mode.
        """
        if generation_mode == "image":
            return list(generated_outputs)
        if generation_mode not in (None, "text"):
            raise InputError(f"generation_mode {generation_mode!r}: give 'text', 'image' or None")
        texts = self.tokenizer.batch_decode(
            generated_outputs, skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )  # fmt: skip
        return [text.replace("".join(self._boundaries), "") for text in texts]

    def segments(self, ids: Int[Tensor, " t"]) -> list[str | Int[Tensor, " n"]]:
        """New ids of a row -> its texts and the ids of its images' codes (32,), in their order.

        `decode_image_tokens` draws the images.
        """
        vocabulary, found, open_text = self.vocabulary, [], []
        rows = ids.tolist()
        while rows:
            if rows[0] == vocabulary.begin and len(rows) > vocabulary.span:
                found += [open_text, torch.tensor(rows[1 : vocabulary.span + 1])]
                rows, open_text = rows[vocabulary.span + 2 :], []
            else:
                open_text.append(rows.pop(0))
        parts = [
            part if isinstance(part, Tensor) else self.tokenizer.decode(part, skip_special_tokens=True).strip()
            for part in [*found, open_text]
        ]
        return [part for part in parts if isinstance(part, Tensor) or part]

    @property
    def _boundaries(self) -> tuple[str, str]:
        """The names of begin and end of an image."""
        begin, end = self.tokenizer.convert_ids_to_tokens([self.vocabulary.begin, self.vocabulary.end])
        return begin, end

    def _ids(self, text: str) -> list[int]:
        """The ids of a text, the LM's start id first."""
        start = self.tokenizer.bos_token or ""
        text = encodable(text if text.startswith(start) else start + text)
        return self.tokenizer(text, add_special_tokens=False).input_ids


def _flat(images: Any) -> list[Any]:
    """Images one by one: of none, one, a list, or a list of lists."""
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [one for image in images for one in _flat(image)]
    return [images]


def _opened(image: Any) -> Any:
    """An image as `normalized_pixels` takes one: what is neither a picture nor a file is a URL, or base64."""
    if not isinstance(image, str):
        return image
    return Path(image) if os.path.isfile(image) else load_image(image)
