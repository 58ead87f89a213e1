"""The SEED tokenizer (Figure 2): pictures to 32 causal codes, and back.

Left to right: ViT, Causal Q-Former, codebook; then code decoder (what retrieval uses), or text-side decoder, Reverse
Q-Former and a frozen diffusion model (what drawing uses).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from seedtok.core.cards import tokenizer_card
from seedtok.core.device import MovesAsAWhole, device_named
from seedtok.core.errors import CheckpointError, InputError
from seedtok.core.files import assign_strictly, built_for, read_json, read_tensors
from seedtok.core.hub import locate, push, recorded, resolve, source_of
from seedtok.core.images import Pictures, as_pil, batches_of
from seedtok.core.kinds import TOKENIZER, check_kind
from seedtok.core.writing import files_into
from seedtok.tokenizer.code_decoder import CodeDecoder, CodeDecoderConfig
from seedtok.tokenizer.codebook import Codebook, Quantized
from seedtok.tokenizer.embedder import ImageTextEmbedder, shared_vision
from seedtok.tokenizer.familiarity import Familiarity, encode_compared, far_names, warn_of_far_pictures
from seedtok.tokenizer.image_head import ImageHead
from seedtok.tokenizer.reverse_qformer import ReverseQFormer
from seedtok.tokenizer.seed_config import SeedConfig

if TYPE_CHECKING:
    from transformers import BertTokenizer

    from seedtok.tokenizer.image_decoder import ImageDecoder

VERSION = 1
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class SeedTokenizer(MovesAsAWhole):
    """Encodes pictures as 32 codes and decodes codes to pictures; loads with `from_pretrained`, in eval mode."""

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
            raise CheckpointError("a tokenizer has a Reverse Q-Former or an image head, one of the two")
        self.familiarity: Familiarity | None = None  # a file of its own, which most checkpoints lack
        self._image_decoder: ImageDecoder | None = None
        self._folder: Path | None = None  # where it was loaded from
        self.source: str | None = None  # what names it for `from_pretrained`; None for a new one

    # ------------------------------------------------------------ Figure 2, in tensors

    def causal_embeddings(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Normalised pixels -> causal embeddings."""
        return self.embedder.qformer(self.embedder.patch_features(pixels))

    def quantize(self, embeddings: Float[Tensor, "b n d"]) -> Quantized:
        """Causal embeddings -> codebook vectors, codes and the codebook's loss."""
        return self.codebook(self.encode_head(embeddings).float())

    def reconstructed_embeddings(self, vectors: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Codebook vectors -> the causal embeddings they stand for.

        Raises CheckpointError where there is no code decoder.
        """
        if self.code_decoder is None:
            raise CheckpointError("this checkpoint has no code decoder, so its codes cannot be retrieved with")
        return self.code_decoder(self.decode_head(vectors))

    def generation_embeddings(self, vectors: Float[Tensor, "b n c"]) -> Float[Tensor, "b *t w"]:
        """Codebook vectors -> what the diffusion model draws from: as text features are, or an image's embedding."""
        read = self.text_decoder(self.decode_head(vectors))
        return self.image_head(read) if self.reverse_qformer is None else self.reverse_qformer(read)

    # ------------------------------------------------------------ pictures and codes

    @property
    def device(self) -> torch.device:
        return self.codebook.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encode_head[0].weight.dtype  # type: ignore[return-value]

    def unseen(self) -> list[Any]:
        return [] if self._image_decoder is None else [self._image_decoder]

    def uncast(self) -> list[nn.Module]:
        return [self.codebook]  # nearest neighbours are always found in float32

    @property
    def codebook_id(self) -> str:
        """Tells one codebook from another: a hash of its vectors."""
        vectors = self.codebook.weight.detach().float().cpu().contiguous().numpy()
        return hashlib.sha256(vectors.tobytes()).hexdigest()[:16]

    def pixels(self, images: Pictures) -> Float[Tensor, "b 3 h w"]:
        """Pictures of any kind and size -> normalised pixels, stretched to the ViT's size by bicubic interpolation.

        `images`: PIL images, paths, arrays (H, W[, C]), tensors (3, H, W) of uint8 or of floats in 0..1; one, a list,
        or an array or tensor with a leading batch axis. An empty list gives no pixels, (0, 3, H, W). Raises ImageError,
        in one line, for anything else.
        """
        side = self.config.embedder.vision.image_size
        if isinstance(images, list | tuple) and not images:
            return torch.zeros(0, 3, side, side, dtype=self.dtype, device=self.device)
        square = [
            im if im.size == (side, side) else im.resize((side, side), Image.Resampling.BICUBIC)
            for im in as_pil(images)
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(im) for im in square])).to(self.device)
        mean, std = (torch.tensor(x, device=self.device) * 255 for x in (CLIP_MEAN, CLIP_STD))
        return ((pixels - mean) / std).permute(0, 3, 1, 2).to(self.dtype)

    @torch.no_grad()
    def encode(self, images: Pictures | Iterable[Any], batch_size: int = 32) -> Int[Tensor, "b n"]:
        """Pictures -> codes (B, 32) int64. `images` as for `pixels`, or any iterable of pictures; of none, (0, 32).

        They are read and encoded `batch_size` at a time, so that memory does not grow with their number. A
        SeedTokWarning names pictures far from those of training, where the checkpoint can tell.
        """
        codes, far, count = [], [], 0
        for batch in batches_of(images, batch_size):
            found, is_far = encode_compared(self, self.pixels(batch))
            far += far_names(is_far, batch, count)
            codes.append(found)
            count += len(found)
        warn_of_far_pictures(far)
        return torch.cat(codes) if codes else self.encode_pixels(self.pixels([]))

    @torch.no_grad()
    def encode_pixels(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """What `pixels` returned -> codes (B, 32) int64, without a warning: for bulk work."""
        return self.codebook.encode(self.encode_head(self.causal_embeddings(pixels)))

    @torch.no_grad()
    def decode(
        self,
        codes: Int[Tensor, "b n"] | Sequence[Any],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        dtype: torch.dtype | None = None,
    ) -> list[Image.Image]:
        """Codes (B, 32) or (32,) -> pictures, none of an empty list; generator and dtype as for `ImageDecoder.draw`.

        Raises InputError when there are not 32 codes a picture, or one is out of range.
        """
        if len(codes) == 0:
            return []
        embeddings = self.generation_embeddings(self.lookup(codes))
        return self.image_decoder.draw(
            embeddings,
            num_inference_steps=num_inference_steps or self.config.num_inference_steps,
            guidance_scale=self.config.guidance_scale if guidance_scale is None else guidance_scale,
            generator=generator,
            dtype=dtype,
        )

    def lookup(self, codes: Int[Tensor, "b n"] | Sequence[Any]) -> Float[Tensor, "b n c"]:
        """Codes (B, 32) or (32,) -> codebook vectors; raises InputError as `decode` does."""
        try:
            given = torch.as_tensor(codes)
        except (TypeError, ValueError, RuntimeError):
            raise InputError("codes are rows of integers, all of one length") from None
        if (given.numel() and given.is_floating_point()) or given.dtype == torch.bool:
            raise InputError(f"codes are integers, not {given.dtype}")
        given = given[None] if given.ndim == 1 else given
        count = self.config.embedder.qformer.queries
        if given.ndim != 2 or given.shape[1] != count:
            raise InputError(f"a picture is {count} codes; got a shape of {tuple(given.shape)}")
        return self.codebook.lookup(given.to(self.device)).to(self.dtype)

    # ------------------------------------------------------------ retrieval

    @torch.no_grad()
    def embed_images(self, images: Pictures, from_codes: bool = False) -> Float[Tensor, "b p"]:
        """Image embeddings of unit length, off the causal embeddings or (`from_codes`) off what their codes keep."""
        embeddings = self.causal_embeddings(self.pixels(images))
        if from_codes:
            vectors = self.quantize(embeddings).vectors.to(self.dtype)
            embeddings = self.reconstructed_embeddings(vectors)
        return self.embedder.project_queries(embeddings)

    @torch.no_grad()
    def embed_texts(self, texts: str | list[str]) -> Float[Tensor, "b p"]:
        """Text embeddings of unit length, to compare with `embed_images` by dot product; (0, P) of an empty list."""
        return self.embedder.embed_texts([texts] if isinstance(texts, str) else texts)

    # ------------------------------------------------------------ files

    @property
    def image_decoder(self) -> ImageDecoder:
        """The frozen diffusion model, loaded when first asked for; it is where the rest of the model is."""
        if self._image_decoder is None:
            from seedtok.tokenizer.image_decoder import ImageDecoder

            source = locate(self.config.image_decoder, "diffusion", self._folder)
            self._image_decoder = ImageDecoder.from_pretrained(source, self.dtype)
        if self._image_decoder.device != self.device:  # this module was moved as a part of another
            self._image_decoder.to(self.device)
        return self._image_decoder

    @property
    def image_decoder_source(self) -> str:
        """Where the image decoder is: "mini", the path of a folder, or a hub id."""
        return source_of(self.config.image_decoder, "diffusion", self._folder)

    def save_pretrained(self, folder: str | Path, *, standalone: bool = False) -> None:
        """Writes config.json, model.safetensors and the text tokenizer.

        An image decoder in a folder stays there, and is named relative to `folder`; `standalone` copies it as well.
        """
        with files_into(Path(folder)) as new:
            self.write_files(new, Path(folder), standalone)

    def write_files(self, new: Path, folder: Path, standalone: bool, image_decoder: str | None = None) -> None:
        """Writes the files of `save_pretrained` into the existing folder `new`, which will be moved to `folder`.

        `image_decoder`, a hub id, is named in place of this tokenizer's own.
        """
        record = {"format": "seedtok.tokenizer", "version": VERSION} | asdict(self.config)
        decoder = image_decoder or self.image_decoder_source
        record["image_decoder"] = recorded(decoder, "diffusion", folder, new, standalone)
        (new / "config.json").write_text(json.dumps(record, indent=1))
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, new / "model.safetensors")
        if self.familiarity is not None:
            self.familiarity.save(new)
        if self.embedder.text_tokenizer is not None:
            self.embedder.text_tokenizer.save_pretrained(str(new / "text_tokenizer"))

    def push_to_hub(
        self, repo_id: str, private: bool = False, token: str | None = None, *, image_decoder: str | None = None,
        license: str | None = None,
    ) -> str:  # fmt: skip
        """Uploads what `save_pretrained` writes to a model hub, with a model card; returns the commit's address.

        An image decoder in a folder of this machine is uploaded too, unless `image_decoder` is the hub id of the same.
        `license` is an identifier of the hub's, such as "apache-2.0". A README.md that the repository has is kept.
        Raises CheckpointError where the hub is out of reach or refuses.
        """
        card = tokenizer_card(repo_id, image_decoder or self.image_decoder_source, license)
        with tempfile.TemporaryDirectory() as scratch:
            self.write_files(Path(scratch), Path(scratch), True, image_decoder)
            return push(Path(scratch), repo_id, card, private, token)

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "mini", *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> SeedTokenizer:
        """Loads "mini" (shipped with the package), a folder, or a hub id; a `Path`, or "./mini", is always a folder.

        `device` is as in `device_named`. Raises CheckpointError for a missing or extra tensor, another version, or a
        broken file.
        """
        device, source = device_named(device), locate(name, "tokenizer")
        folder = resolve(source)
        check_kind(folder, TOKENIZER)
        record = read_json(folder / "config.json")
        if record.pop("format", None) != "seedtok.tokenizer":
            raise CheckpointError(f"{folder} is not a SEED tokenizer")
        if (version := record.pop("version", None)) != VERSION:
            raise CheckpointError(f"{folder} is of version {version}; this release reads version {VERSION}")
        shared = shared_vision(folder, record, "embedder.vision.")
        texts = folder / "text_tokenizer"
        with built_for(record, folder / "model.safetensors"):
            model = cls(SeedConfig.from_dict(record), texts if (texts / "tokenizer_config.json").is_file() else None)
        tensors = read_tensors(folder / "model.safetensors") | shared
        assign_strictly(model, tensors, str(folder), {"": dtype, "codebook.": torch.float32})
        model.familiarity = Familiarity.load(folder, model.config.embedder.vision.width)
        model._folder, model.source = folder, source
        return model.eval().to(device)


def _optional(part: type[nn.Module], config: Any) -> Any:
    return None if config is None else part(config)
