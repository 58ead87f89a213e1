"""SEED-OPT (section 3): a language model over text and visual codes, with the image tokenizer that they belong to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.device import CompositeModule, device_named, dtype_named, inference
from seedtok.core.errors import InputError
from seedtok.core.hub import lm_card, locate, push
from seedtok.core.image_search import SUFFIXES
from seedtok.core.notices import quietly, warn
from seedtok.lm import checkpoint, interleaved, reranking, texts
from seedtok.lm.adapter import LoraSettings, VisualAdapter, add_lora
from seedtok.lm.base import Weights, fingerprint, load_base, quantization, word_embedding
from seedtok.lm.decoding import GREEDY, Sampling, draw_codes
from seedtok.lm.interleaved import Turn, as_turn
from seedtok.lm.model import JointLM
from seedtok.lm.native import PLAIN, Template
from seedtok.lm.plain_files import write_plain
from seedtok.lm.prompts import (
    ANSWERING,
    TextSettings,
    drawing_prompt,
    question_prompt,
    written,
)
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.given_codes import Codes, are_codes, as_codes
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.unknown_words import warn_of_unknown_words


class SeedLM(CompositeModule):
    """Captions, answers, draws and continues texts and images: a `JointLM` and a `SeedTokenizer`.

    Both move and cast together. `template` says how the LM was asked while it was trained.
    """

    def __init__(
        self, joint: JointLM, seed: SeedTokenizer, source: checkpoint.Source | None = None, template: Template = PLAIN
    ):  # fmt: skip
        super().__init__()
        self.joint, self.template = joint, template
        self._seed = [seed]  # in a list, so that it is no part of this module's state
        self.source = source or checkpoint.Source()

    # ------------------------------------------------------------ parts

    @property
    def seed(self) -> SeedTokenizer:
        """The image tokenizer, on the LM's device."""
        seed = self._seed[0]
        return seed if seed.device == self.device else seed.to(self.device)

    def unregistered_parts(self) -> list[Any]:
        return self._seed

    @property
    def device(self) -> torch.device:
        return self.joint.device

    @property
    def vocabulary(self) -> Vocabulary:
        """Which ids are text, codes, begin and end of an image."""
        return self.joint.vocabulary

    # ------------------------------------------------------------ texts and images

    def sequence(self, *turns: Sequence[str | Codes]) -> list[int]:
        """The ids of a prompt, turns of texts and codes (32,) of any integer type, as the template wraps them."""
        return self.joint.sequence(self.template.wrap(turns))

    @inference
    def caption(
        self, images: Any, num_beams: int = 5, batch_size: int = 32, *, min_new_tokens: int | None = None,
        max_new_tokens: int = 30, length_penalty: float | None = None, prompt: str | None = None,
        rerank: bool = False,
    ) -> list[str]:  # fmt: skip
        """Captions of images: the text after their codes and "A photo of", or what else the template asks.

        Args:
            images: as `SeedTokenizer.encode` takes them, or codes (B, 32) or (32,), as its `decode` takes them.
            num_beams: width of the beam search; 1 is greedy.
            batch_size: images at once.
            min_new_tokens: by default the template's, for most models 8, or `max_new_tokens` where that is less.
            max_new_tokens: the most tokens of a caption.
            length_penalty: as of transformers' `generate`.
            prompt: the text between codes and caption; by default the template's.
            rerank: of the texts of all beams take the one from which the model would also most likely draw the image:
                the largest log p(text | image) + log p(image | text), without `prompt`. For models that draw; ours,
                not the paper's.

        Raises InputError for `rerank` with a single beam, with a language model that needs transformers' `generate`
        (as its generation config may), or where a text is too long to be drawn.
        """
        codes = self._codes(images, batch_size)
        least = min(self.template.caption_tokens, max_new_tokens) if min_new_tokens is None else min_new_tokens
        settings = TextSettings(num_beams, max_new_tokens, least, length_penalty)
        prompt = self.template.caption if prompt is None else prompt
        prompts = [self.sequence([image, prompt]) for image in codes]
        if rerank:
            return reranking.rerank(self.joint, prompts, codes, self.drawing_ids, settings, batch_size)
        return texts.complete(self.joint, prompts, settings, batch_size)

    @inference
    def answer(
        self, images: Any, questions: str | Iterable[str], num_beams: int = 5, batch_size: int = 32, *,
        max_new_tokens: int = 10, length_penalty: float | None = 0.0, template: str | None = None,
    ) -> list[str]:  # fmt: skip
        """Short answers to one question an image, which replaces `{}` in `template`, by default the model's own.

        The other arguments are as for `caption`. Raises InputError for an empty question, or where there are not as
        many questions as images.
        """
        questions = [questions] if isinstance(questions, str) else list(questions)
        codes = self._codes(images, batch_size)
        if len(codes) != len(questions):
            raise InputError(f"{len(questions)} questions about {len(codes)} images; give one an image")
        if not all(question.strip() for question in questions):
            raise InputError("an empty question: ask something")
        warn_of_unknown_words(self.joint.text_tokenizer, questions)
        settings = replace(ANSWERING, num_beams=num_beams, max_new_tokens=max_new_tokens, length_penalty=length_penalty)
        pairs = zip(codes, questions, strict=True)
        template = self.template.question if template is None else template
        prompts = [self.sequence([image, question_prompt(question, template)]) for image, question in pairs]
        return texts.complete(self.joint, prompts, settings, batch_size)

    def drawing_ids(self, prompt: str, instruction: str | None = None) -> list[int]:
        """The ids of the prompt that asks for an image, in the words of the template unless others are given."""
        asked = drawing_prompt(prompt, self.template.draw if instruction is None else instruction)
        drawn = [self.template.answer + self.template.drawn] if self.template.drawn else []
        return self.joint.sequence([*self.template.wrap([[asked]]), *drawn])

    @inference
    def draw_codes(
        self, prompts: str | Iterable[str], sampling: Sampling = GREEDY, num_beams: int = 1, *,
        instruction: str | None = None,
    ) -> Int[Tensor, "b n"]:  # fmt: skip
        """Codes (B, 32) of images of prompts, (0, 32) for none: those after "Generate an image" and the prompt.

        Raises InputError for an empty prompt, one too long for the LM, or beams together with sampling.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not all(prompt.strip() for prompt in prompts):
            raise InputError("an empty prompt: say what to draw")
        instruction = self.template.draw if instruction is None else instruction
        warn_of_unknown_words(self.joint.text_tokenizer, [written(prompt, instruction) for prompt in prompts])
        rows = [self.drawing_ids(prompt, instruction) for prompt in prompts]
        return draw_codes(self.joint, rows, sampling, num_beams)

    def draw(
        self, prompts: str | Iterable[str], sampling: Sampling = GREEDY, num_beams: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None, dtype: torch.dtype | str | None = None,
    ) -> list[Image.Image]:  # fmt: skip
        """Images of prompts; `generator` and `dtype` are the image decoder's, `sampling` has the LM's own generator."""
        return self.seed.decode(self.draw_codes(prompts, sampling, num_beams), generator=generator, dtype=dtype)

    def generate(
        self, segments: Turn, generator: torch.Generator | None = None,
        max_new_tokens: int = 64, max_images: int = 4, sampling: Sampling = GREEDY,
        on_text: Callable[[str], None] | None = None, on_image: Callable[[Image.Image], None] | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> list[str | Image.Image]:  # fmt: skip
        """Continues texts and images in any order by texts and images: a chat of one turn.

        Args:
            segments: a str is text; an image is anything that `SeedTokenizer.encode` takes, or its codes (32,).
                A single text or image needs no list.
            generator: the image decoder's.
            max_new_tokens: the most tokens of text.
            max_images: the most images.
            sampling: how tokens and codes are chosen.
            on_text: gets the text as it grows.
            on_image: gets each image when its codes are complete, after the text before it.
            dtype: the image decoder's, as for `draw`.

        Raises:
            InputError: an empty prompt, or one too long for the LM.
        """
        return self.chat([segments], generator, max_new_tokens, max_images, sampling, on_text, on_image, dtype)

    @inference
    def chat(
        self, turns: Iterable[Turn], generator: torch.Generator | None = None,
        max_new_tokens: int = 64, max_images: int = 4, sampling: Sampling = GREEDY,
        on_text: Callable[[str], None] | None = None, on_image: Callable[[Image.Image], None] | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> list[str | Image.Image]:  # fmt: skip
        """The answer to a chat: turns of texts and images, the user's and the model's alternately, the user's last.

        The other arguments, and what it raises, are as for `generate`.
        """
        turns = [as_turn(turn) for turn in turns]
        text_segments = [segment for turn in turns for segment in turn if isinstance(segment, str)]
        for text in filter(_is_image_file, text_segments):
            warn(f"{text!r} is read as a text; for the image of that name give pathlib.Path({text!r})")
        prompts = [text for text in text_segments if not _is_image_file(text)]
        warn_of_unknown_words(self.joint.text_tokenizer, prompts)
        given = self.template.wrap([[self._segment(segment) for segment in turn] for turn in turns])
        drawn: list[Image.Image] = []

        def draw(codes: Tensor) -> None:
            drawn.extend(self.seed.decode(codes[None], generator=generator, dtype=dtype))
            if on_image is not None:
                on_image(drawn[-1])

        made = interleaved.generate(self.joint, given, max_new_tokens, max_images, sampling, on_text, draw)
        images = iter(drawn)
        return [part if isinstance(part, str) else next(images) for part in made]

    def room(self, turns: Iterable[Turn]) -> int:
        """The number of tokens left in the LM's context after a chat; its images are counted, and not opened.

        Raises InputError where the chat itself does not fit.
        """
        image = torch.zeros(self.vocabulary.span, dtype=torch.int64)
        parts = [[segment if isinstance(segment, str) else image for segment in as_turn(turn)] for turn in turns]
        return self.joint.context - len(self.sequence(*parts))

    def _codes(self, images: Any, batch_size: int) -> Int[Tensor, "b n"]:
        """Codes (B, 32) int64 of images, which are encoded `batch_size` at a time, or of what is codes already."""
        texts.check_batch_size(batch_size)
        if are_codes(images, self.vocabulary.span):
            return as_codes(images, self.vocabulary.span)
        return self.seed.encode(images, batch_size)

    def _segment(self, segment: Any) -> str | Tensor:
        """A segment of a prompt as text or codes (32,)."""
        if isinstance(segment, str):
            return segment
        codes = self._codes(segment, 1)
        if len(codes) != 1:
            raise InputError(f"a segment of {len(codes)} images: give each image as a segment of its own")
        return codes[0]

    # ------------------------------------------------------------ files

    @classmethod
    @quietly("transformers")
    def build(
        cls, base: str | Path, seed: SeedTokenizer, lora: LoraSettings | None = None,
        dtype: torch.dtype | str = torch.float32,
    ) -> SeedLM:  # fmt: skip
        """A new SEED LM over any causal LM: LoRA without effect yet, and new visual layers.

        `base` is "mini" (the shipped OPT), a folder, or a hub id; `dtype` is one of torch's, or its name. Raises
        CheckpointError when it cannot be loaded, and ConfigError for an unknown dtype.
        """
        source, dtype = locate(base, "opt"), dtype_named(dtype)
        lm, text_tokenizer = load_base(source, dtype)
        adapter = VisualAdapter(checkpoint.adapter_config(lm, seed))
        embedding = word_embedding(lm)
        rows = torch.arange(0, adapter.config.text, max(1, adapter.config.text // 1024), device=embedding.weight.device)
        with torch.no_grad():
            adapter.initialise(seed.codebook.weight.detach(), embedding(rows))
        identity = checkpoint.Source(source, fingerprint(lm))
        network = add_lora(lm, lora or LoraSettings())
        joint = JointLM(network, text_tokenizer, adapter.config.vocabulary, adapter.to(dtype))
        return cls(joint, seed, identity).eval()

    def save_pretrained(self, folder: str | Path, merged: bool = False, *, standalone: bool = False) -> None:
        """Writes LoRA and the visual layers; a plain language model as `save_plain` does.

        Base and image tokenizer stay where they are: those in folders are named relative to `folder`, and `standalone`
        copies them into it. An image tokenizer that was changed since it was loaded is written, too. `merged` writes
        the base with LoRA added to its weights, as a folder `base` of transformers.
        """
        self._write(Path(folder).expanduser(), checkpoint.Parts(merged, standalone))

    def save_plain(self, folder: str | Path) -> None:
        """Writes a plain language model: LoRA and visual layers folded into a causal LM of transformers (`plain.fold`).

        `AutoModelForCausalLM` and `AutoTokenizer` load it, and `from_pretrained` does. Its logits are those of this
        model; its tokens `<img_00000>` to `<img_08191>`, `<img>` and `</img>` are the visual ones. Raises
        CheckpointError for an LM that does not fold.
        """
        with checkpoint_folder(folder := Path(folder).expanduser()) as new:
            write_plain(self.joint, self._seed[0], new, folder, self.template)

    def save_transformers(self, folder: str | Path) -> None:
        """Writes the weights of `save_plain` with a processor, for transformers' Auto classes (`seedtok.lm.auto`)."""
        from seedtok.lm.auto.write import write_transformers  # it imports transformers

        with checkpoint_folder(Path(folder)) as new:
            write_transformers(self.joint, self._seed[0], self.template, new)

    def _write(self, folder: Path, parts: checkpoint.Parts) -> None:
        with checkpoint_folder(folder) as new:
            if self.joint.adapter is None:
                write_plain(self.joint, self._seed[0], new, folder, self.template)
            else:
                checkpoint.write_files(self.joint, self._seed[0], self.source, new, folder, parts, self.template)

    def push_to_hub(
        self, repo_id: str, private: bool = False, token: str | None = None, *, base: str | None = None,
        tokenizer: str | None = None, license: str | None = None,
    ) -> str:  # fmt: skip
        """Uploads what `save_pretrained` writes to a model hub, with a model card; returns the commit's address.

        A base or an image tokenizer in a folder of this machine is uploaded too, unless `base` or `tokenizer` is the
        hub id of the same. `license` is an identifier of the hub's. A README.md that the repository has is kept.
        Raises CheckpointError where the hub is out of reach or refuses.
        """
        card = lm_card(repo_id, base or self.source.base, tokenizer or self._seed[0].unchanged_source, license)
        with tempfile.TemporaryDirectory() as scratch:
            self._write(Path(scratch), checkpoint.Parts(False, True, base, tokenizer))
            return push(Path(scratch), repo_id, card, private, token)

    @classmethod
    @quietly("transformers")
    def from_pretrained(
        cls, name: str | Path = "mini", *, base: str | Path | None = None,
        seed: SeedTokenizer | str | Path | None = None, dtype: torch.dtype | str = torch.float32,
        device: str | int | torch.device = "cpu", trainable: bool = False, template: Template | None = None,
        quantize: Any = None,
    ) -> SeedLM:  # fmt: skip
        """Loads "mini" (shipped with the package), a folder or a hub id; a plain language model or SEED-LLaMA too.

        Args:
            name: what to load.
            base: the base language model in place of the one that the checkpoint names.
            seed: the image tokenizer in place of the one that the checkpoint names.
            dtype: of the LM and of an image tokenizer that is loaded with it: one of torch's, or its name.
            device: of both, as `device_named` takes it.
            trainable: whether LoRA and the visual layers can be trained further.
            template: how the LM is asked; by default as it was trained, which for SEED-LLaMA its name tells.
            quantize: "8bit", "4bit" or a quantization configuration of transformers, for the LM's own layers.

        Raises:
            CheckpointError: a broken folder, an adapter made for another base, or another codebook.
            ConfigError: what quantizes is unknown or not installed, or the dtype is unknown.
        """
        given = checkpoint.Given(name, base, seed, template)
        place, dtype = device_named(device), dtype_named(dtype)
        weights = Weights(dtype, quantization(quantize, dtype, place))
        joint, tokenizer, source, template = checkpoint.read(given, weights, trainable)
        return cls(joint, tokenizer, source, template).eval().to(place)


def _is_image_file(text: str) -> bool:
    return text.lower().endswith(tuple(SUFFIXES)) and os.path.isfile(text)  # which takes any text
