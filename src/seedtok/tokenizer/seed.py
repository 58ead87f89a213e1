"""The SEED tokenizer (Figure 2): images -> 32 causal codes -> images.

From left to right: ViT encoder, Causal Q-Former, codebook; then for retrieval the code decoder, and for generation the
text-side decoder, the Reverse Q-Former and a frozen diffusion model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.device import CompositeModule, computes_bfloat16_fast, device_named, dtype_named, inference
from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_tensors
from seedtok.core.hub import locate, push, recorded, resolve, source_of, tokenizer_card
from seedtok.core.image_batches import batches_of
from seedtok.core.images import Images
from seedtok.core.kinds import TOKENIZER
from seedtok.core.products import fast_products
from seedtok.tokenizer.code_decoder import CodeDecoder, CodeDecoderConfig
from seedtok.tokenizer.codebook import Codebook, Quantized
from seedtok.tokenizer.embedder import ImageTextEmbedder, shared_vision, stored_text_tokenizer
from seedtok.tokenizer.familiarity import Familiarity, encode_and_check, far_names, warn_of_far_images
from seedtok.tokenizer.fingerprint import dtype_name, fingerprint, has_values, sampled_values
from seedtok.tokenizer.given_codes import Codes, as_codes
from seedtok.tokenizer.image_head import ImageHead
from seedtok.tokenizer.reverse_qformer import ReverseQFormer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.tokenizer.vision import normalized_pixels

if TYPE_CHECKING:
    from transformers import BertTokenizer

    from seedtok.tokenizer.image_decoder import ImageDecoder

VERSION = 1
LOADING = Lock()  # of image decoders, which several threads may ask for at once


class SeedOutput(NamedTuple):
    """Tensors of Figure 2: causal embeddings (B, 32, D), codes with vectors, generation embeddings (B, 77, D')."""

    causal_embeddings: Tensor
    quantized: Quantized
    generation_embeddings: Tensor


class SeedTokenizer(CompositeModule):
    """Encodes images as 32 codes and decodes codes to images; `from_pretrained` loads one, in eval mode."""

    def __init__(self, config: SeedConfig, text_tokenizer: BertTokenizer | Path | None = None):
        super().__init__()
        self.config = config
        width, dim = config.embedder.qformer.width, config.codebook.dim
        self.embedder = ImageTextEmbedder(config.embedder, text_tokenizer)
        self.encode_head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, dim))
        self.codebook = Codebook(config.codebook)
        self.decode_head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, width))
        self.code_decoder = _optional(CodeDecoder, config.code_decoder)
        self.text_decoder = CodeDecoder(config.text_decoder or config.code_decoder or CodeDecoderConfig(width=width))
        self.reverse_qformer = _optional(ReverseQFormer, config.reverse_qformer)
        self.image_head = _optional(ImageHead, config.image_head)
        if (self.reverse_qformer is None) == (self.image_head is None):
            raise CheckpointError("expected a Reverse Q-Former or an image head, and not both")
        self.familiarity: Familiarity | None = None  # in a separate file, which most checkpoints do not have
        self._image_decoder: ImageDecoder | None = None
        self._stored_drawing: dict[str, Any] = {}  # settings of the checkpoint that an LCM-LoRA replaces
        self._folder: Path | None = None  # of the checkpoint it was loaded from
        self._stored: dict[str, Tensor] | None = None  # some values of that checkpoint, see `encoder_fingerprint`
        self._loaded: tuple[SeedConfig, str] | None = None  # its configuration and codebook, see `unchanged_source`
        self._is_auto = False  # whether it was loaded with the dtype "auto"
        self.source: str | None = None  # see `core.hub`; None for a new model

    # ------------------------------------------------------------ Figure 2, in tensors

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> SeedOutput:
        """Figure 2 from left to right, up to the diffusion model: normalised pixels -> generation embeddings."""
        causal = self.causal_embeddings(pixels)
        quantized = self.quantize(causal)
        generation = self.generation_embeddings(quantized.vectors.to(self.dtype))
        return SeedOutput(causal, quantized, generation)

    def causal_embeddings(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Normalised pixels -> causal embeddings: the ViT encoder and the Causal Q-Former."""
        features = self.embedder.patch_features(pixels)
        return self.embedder.qformer(features)

    def quantize(self, embeddings: Float[Tensor, "b n d"]) -> Quantized:
        """Causal embeddings -> code vectors, codes and the loss of the codebook."""
        return self.codebook(self.encode_head(embeddings).float())

    def reconstructed_embeddings(self, vectors: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Code vectors -> reconstructed causal embeddings, which retrieval by codes uses.

        Raises CheckpointError where there is no code decoder.
        """
        if self.code_decoder is None:
            raise CheckpointError("this checkpoint has no code decoder, so its codes cannot be used for retrieval")
        return self.code_decoder(self.decode_head(vectors))

    def generation_embeddings(self, vectors: Float[Tensor, "b n c"]) -> Float[Tensor, "b *t w"]:
        """Code vectors -> generation embeddings: text features (B, 77, D'), or an image embedding (B, D') of unCLIP."""
        decoded = self.text_decoder(self.decode_head(vectors))
        return self.image_head(decoded) if self.reverse_qformer is None else self.reverse_qformer(decoded)

    # ------------------------------------------------------------ images and codes

    @property
    def device(self) -> torch.device:
        return self.codebook.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encode_head[0].weight.dtype  # type: ignore[return-value]

    def unregistered_parts(self) -> list[Any]:
        return [] if self._image_decoder is None else [self._image_decoder]

    @property
    def codebook_id(self) -> str:
        """A hash of the code vectors, and of the codes' order where it is not the causal one: it identifies codes."""
        return self.codebook.fingerprint(self.config.code_order)

    @property
    def encoder_fingerprint(self) -> str:
        """A hash of some weights of all that encodes, of the codes' order and of how images are stretched.

        It is the same on any device and in any dtype. Tokenizers with one codebook, such as one before and after
        fine-tuning, differ in it.
        """
        interpolation = self.config.embedder.vision.interpolation
        return fingerprint(self.state_dict(), self.config.code_order, interpolation, self._stored)

    @property
    def encoder_dtype(self) -> str:
        """The dtype of all that encodes, such as "float32"; "auto" where it was loaded so, on whatever machine."""
        name = dtype_name(self.state_dict())
        return "auto" if self._is_auto and name == "float32" else name

    def pixels(self, images: Images) -> Float[Tensor, "b 3 h w"]:
        """Images, as for `normalized_pixels` -> normalised pixels, in the size, dtype and device of this model."""
        return normalized_pixels(images, self.config.embedder.vision.square, self.dtype, self.device)

    @inference
    def encode(self, images: Images | Iterable[Any], batch_size: int = 32) -> Int[Tensor, "b n"]:
        """Images -> codes (B, 32) int64; no images give (0, 32).

        `images` is as for `pixels`, or any iterable of images, which is read `batch_size` at a time, so that memory
        does not grow with their number. A SeedTokWarning names images that are far from those of training, where the
        checkpoint has a `Familiarity`.
        """
        codes, far, count = [], [], 0
        for batch in batches_of(images, batch_size):
            encoded, is_far = encode_and_check(self, self.pixels(batch))
            far += far_names(is_far, batch, count)
            codes.append(encoded)
            count += len(encoded)
        warn_of_far_images(far)
        return torch.cat(codes) if codes else self.encode_pixels(self.pixels([]))

    @inference
    def encode_pixels(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Normalised pixels -> codes (B, 32) int64, without the warning of `encode`."""
        with fast_products(self.device):
            return self.codes_of(self.causal_embeddings(pixels))

    def codes_of(self, embeddings: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"]:
        """Causal embeddings -> codes (B, 32) int64, in the configuration's order."""
        codes = self.codebook.encode(self.encode_head(embeddings))
        return codes if self.config.code_order is None else codes[:, list(self.config.code_order)]

    @inference
    def decode(
        self,
        codes: Codes,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int = 8,
    ) -> list[Image.Image]:
        """Codes (B, 32) or (32,), or rows of them -> images, `batch_size` at a time; no rows give none.

        The other arguments are those of `ImageDecoder.draw`; steps and guidance default to the checkpoint's. Raises
        InputError for other than 32 codes for each image, or a code that is out of range.
        """
        vectors = self.lookup(codes)
        if not len(vectors):
            return []
        return self.image_decoder.draw(
            self.generation_embeddings(vectors),
            num_inference_steps=self.config.num_inference_steps if num_inference_steps is None else num_inference_steps,
            guidance_scale=self.config.guidance_scale if guidance_scale is None else guidance_scale,
            generator=generator,
            dtype=dtype,
            batch_size=batch_size,
        )

    def lookup(self, codes: Codes) -> Float[Tensor, "b n c"]:
        """Codes (B, 32) or (32,), or rows of them -> code vectors (B, 32, C), in causal order.

        Raises InputError as `decode` does.
        """
        given = as_codes(codes, self.config.embedder.qformer.queries)
        if self.config.code_order is not None:
            given = given[:, torch.tensor(self.config.code_order, device=given.device).argsort()]
        return self.codebook.lookup(given.to(self.device)).to(self.dtype)

    # ------------------------------------------------------------ retrieval

    @inference
    def embed_images(
        self, images: Images | Iterable[Any], from_codes: bool = False, batch_size: int = 32
    ) -> Float[Tensor, "b p"]:
        """Image embeddings of unit length, from causal embeddings, or from those of the codes with `from_codes`.

        `images` and `batch_size` are as for `encode`; no images give (0, P).
        """
        found = []
        for batch in batches_of(images, batch_size):
            embeddings = self.causal_embeddings(self.pixels(batch))
            if from_codes:
                embeddings = self.reconstructed_embeddings(self.lookup(self.codes_of(embeddings)))
            found.append(self.embedder.project_queries(embeddings))
        if not found:
            return self.embedder.project_queries(self.causal_embeddings(self.pixels([])))
        return torch.cat(found)

    @inference
    def embed_texts(self, texts: str | Iterable[str]) -> Float[Tensor, "b p"]:
        """Text embeddings of unit length, whose dot products with `embed_images` are cosines; no texts give (0, P)."""
        return self.embedder.embed_texts([texts] if isinstance(texts, str) else list(texts))

    # ------------------------------------------------------------ files

    @property
    def image_decoder(self) -> ImageDecoder:
        """The frozen diffusion model, on the device of this model; loaded on first use."""
        with LOADING:
            decoder = self._image_decoder
            # this module may have been moved as a child of another
            if decoder is None or decoder.device != self.device:
                with torch.random.fork_rng(devices=[]), torch.inference_mode(False):  # whatever it is first used in
                    if decoder is None:
                        from seedtok.tokenizer.image_decoder import ImageDecoder

                        source = locate(self.config.image_decoder, "diffusion", self._folder)
                        decoder = ImageDecoder.from_pretrained(source, self.dtype)
                    self._image_decoder = decoder.to(self.device)
            return decoder

    def draw_by(self, image_decoder: str | Path | None = None, lcm_lora: str | Path | None = None) -> None:
        """From now on draws by another image decoder, or by an LCM-LoRA on it (never saved), in few steps if it can.

        Raises CheckpointError as loading does.
        """
        if image_decoder is not None:
            source = source_of(image_decoder, "diffusion")
            self.config, self._stored_drawing = replace(self._stored_config, image_decoder=source), {}
            self._image_decoder = None
        if lcm_lora is not None:
            self.image_decoder.add_lcm_lora(lcm_lora)
            names = ("num_inference_steps", "guidance_scale")
            self._stored_drawing = {name: getattr(self._stored_config, name) for name in names}
        if image_decoder is None and lcm_lora is None:
            return  # the image decoder is not loaded before it is used
        if steps := self.image_decoder.few_steps:
            self.config = replace(
                self.config, num_inference_steps=steps, guidance_scale=self.image_decoder.few_guidance
            )

    @property
    def _stored_config(self) -> SeedConfig:
        """The configuration of the checkpoint, in which there is no LCM-LoRA."""
        return replace(self.config, **self._stored_drawing)

    @property
    def image_decoder_source(self) -> str:
        """The source of the image decoder: "mini", the path of a folder, or a hub id."""
        return source_of(self.config.image_decoder, "diffusion", self._folder)

    @property
    def unchanged_source(self) -> str | None:
        """The source that this tokenizer was loaded from; None for a new one, or one that was changed since.

        Of each tensor of weights a few values are compared, as training changes them all, and the whole codebook.
        """
        is_loaded = self._loaded == (self._stored_config, self.codebook_id) and has_values(
            self._tensors(), self._stored
        )
        return self.source if is_loaded else None

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of all files of a checkpoint."""
        more = {} if self.familiarity is None else self.familiarity.named_buffers("familiarity")
        return self.state_dict() | dict(more)

    def save_pretrained(self, folder: str | Path, *, standalone: bool = False) -> None:
        """Writes a checkpoint; names an image decoder relative to `folder`, or with `standalone` copies it there."""
        with checkpoint_folder(folder := Path(folder).expanduser()) as new:
            self.write_files(new, folder, standalone)

    def write_files(self, new: Path, folder: Path, standalone: bool, image_decoder: str | None = None) -> None:
        """Writes the files of `save_pretrained` into the existing folder `new`, which will be moved to `folder`.

        `image_decoder` is a hub id to record instead of this tokenizer's own image decoder.
        """
        decoder = image_decoder or self.image_decoder_source
        named = {"image_decoder": recorded(decoder, "diffusion", folder, new, standalone)}
        write_checkpoint(new, TOKENIZER, VERSION, asdict(self._stored_config) | named, self.state_dict())
        if self.familiarity is not None:
            self.familiarity.save(new)
        self.embedder.save_text_tokenizer(new)

    def push_to_hub(
        self, repo_id: str, private: bool = False, token: str | None = None, *, image_decoder: str | None = None,
        license: str | None = None,
    ) -> str:  # fmt: skip
        """Uploads the files of `save_pretrained` and a model card to a model hub; returns the URL of the commit.

        An image decoder in a local folder is uploaded too, unless `image_decoder` gives its hub id. A README.md of the
        repository is kept. `license` is the hub's, as "apache-2.0". Raises CheckpointError where the hub refuses.
        """
        card = tokenizer_card(repo_id, image_decoder or self.image_decoder_source, license)
        with tempfile.TemporaryDirectory() as scratch:
            self.write_files(Path(scratch), Path(scratch), True, image_decoder)
            return push(Path(scratch), repo_id, card, private, token)

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "mini", *, dtype: torch.dtype | str = torch.float32,
        device: str | int | torch.device = "cpu",
    ) -> SeedTokenizer:  # fmt: skip
        """Loads "mini" (shipped with the package), a folder, or a hub id; a `Path`, or "./mini", is always a folder.

        `dtype` is one of torch's, or its name; "auto" is float32 with `ImageTextEmbedder.narrow_products` to bfloat16
        where `device`, which is as for `core.device.device_named`, computes quickly in that, and else float32. Raises
        CheckpointError for a missing or extra tensor, another version, or a broken file, and ConfigError for a dtype
        that there is not.
        """
        device, source = device_named(device), locate(name, "tokenizer")
        config = read_config(folder := resolve(source), TOKENIZER, VERSION)
        vision = shared_vision(folder, config, "embedder.vision.")
        model = load_model(
            lambda: cls(SeedConfig.from_dict(config), stored_text_tokenizer(folder)), config, folder / WEIGHTS,
            {"": torch.float32 if dtype == "auto" else dtype_named(dtype), "codebook.": torch.float32}, vision,
        )  # fmt: skip
        cast = model.dtype != torch.float32
        model.familiarity = Familiarity.load(folder, model.config.embedder.vision.width)
        model._stored = sampled_values(model._tensors() | (read_tensors(folder / WEIGHTS) | vision if cast else {}))
        model._loaded = model.config, model.codebook_id
        if dtype == "auto" and computes_bfloat16_fast(device):
            model.embedder.narrow_products(torch.bfloat16)
        model._folder, model.source, model._is_auto = folder, source, dtype == "auto"
        return model.to(device)


def _optional(part: type[nn.Module], config: Any) -> Any:
    return None if config is None else part(config)
