"""The SEED tokenizer (Figure 2): pictures to 32 causal codes, and back.

Left to right: ViT, Causal Q-Former, codebook; then code decoder (what retrieval uses), or text-side decoder, Reverse
Q-Former and a frozen diffusion model (what drawing uses).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertTokenizer

import seedtok.tokenizer.patch_autoencoder
import seedtok.tokenizer.positioned_unet  # noqa: F401  diffusers loads both by name, from modules already imported
from seedtok.errors import CheckpointError, InputError
from seedtok.files import assign_strictly, read_json, read_tensors, whole_folder
from seedtok.hub import resolve, shipped
from seedtok.images import Pictures, as_pil
from seedtok.records import from_record
from seedtok.tokenizer.code_decoder import CodeDecoder, CodeDecoderConfig
from seedtok.tokenizer.codebook import Codebook, CodebookConfig, Quantized
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder, shared_vision
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.image_head import ImageHead, ImageHeadConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormer, ReverseQFormerConfig

VERSION = 1
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class SeedConfig:
    """Sizes; the defaults are the paper's. `image_decoder` is a folder beside the checkpoint, a path or a hub id.

    Without `code_decoder`, codes cannot be retrieved with, as in the published checkpoints. `text_decoder` None is of
    the code decoder's sizes. Generation embeddings come from a Reverse Q-Former or else from an `image_head`.
    """

    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    code_decoder: CodeDecoderConfig | None = field(default_factory=CodeDecoderConfig)
    text_decoder: CodeDecoderConfig | None = None
    reverse_qformer: ReverseQFormerConfig | None = field(default_factory=ReverseQFormerConfig)
    image_head: ImageHeadConfig | None = None
    image_decoder: str = "CompVis/stable-diffusion-v1-4"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> SeedConfig:
        """The inverse of `dataclasses.asdict`; raises CheckpointError for fields that are missing, unknown or odd."""
        EmbedderConfig.from_dict(record.get("embedder"))
        return from_record(cls, record, "a SEED tokenizer")


class SeedTokenizer(nn.Module):
    """Encodes pictures as 32 codes and decodes codes to pictures; loads with `from_pretrained`, in eval mode."""

    def __init__(self, config: SeedConfig, text_tokenizer: BertTokenizer | None = None):
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
        self._image_decoder: ImageDecoder | None = None
        self._folder: Path | None = None

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

    @property
    def name(self) -> str:
        """What `from_pretrained` loads this again by: "mini", or the folder it came from."""
        return "mini" if self._folder in (None, shipped("tokenizer")) else str(self._folder.resolve())

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
    def encode(self, images: Pictures) -> Int[Tensor, "b n"]:
        """Pictures -> codes (B, 32) int64. `images` as for `pixels`; of an empty list, no codes (0, 32)."""
        return self.encode_pixels(self.pixels(images))

    @torch.no_grad()
    def encode_pixels(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """What `pixels` returned -> codes (B, 32) int64: for those who prepare batches elsewhere."""
        return self.codebook.encode(self.encode_head(self.causal_embeddings(pixels)))

    @torch.no_grad()
    def decode(
        self,
        codes: Int[Tensor, "b n"] | Sequence[Any],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> list[Image.Image]:
        """Codes (B, 32) or (32,) -> pictures; none of an empty list.

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
        """The frozen diffusion model, loaded when first asked for."""
        if self._image_decoder is None:
            name = self.config.image_decoder
            beside = self._folder / name if self._folder else Path(name)
            self._image_decoder = ImageDecoder.from_pretrained(beside if beside.is_dir() else name, self.dtype)
            self._image_decoder.pipeline.to(self.device)
        return self._image_decoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and the text tokenizer; the image decoder stays where it is."""
        record = asdict(self.config)
        if self._folder is not None and (self._folder / self.config.image_decoder).is_dir():
            record["image_decoder"] = str((self._folder / self.config.image_decoder).resolve())
        with whole_folder(Path(folder)) as new:
            header = {"format": "seedtok.tokenizer", "version": VERSION}
            (new / "config.json").write_text(json.dumps(header | record, indent=1))
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, new / "model.safetensors")
            if self.embedder.text_tokenizer is not None:
                self.embedder.text_tokenizer.save_pretrained(str(new / "text_tokenizer"))

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Uploads what `save_pretrained` writes to a model hub; returns the commit's address."""
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch) / "model")
            return str(api.upload_folder(repo_id=repo_id, folder_path=str(Path(scratch) / "model")))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "mini",
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> SeedTokenizer:
        """Loads "mini" (shipped with the package), a folder, or a hub id.

        Raises CheckpointError for a missing or extra tensor, another version, or a broken file.
        """
        folder = resolve(name)
        record = read_json(folder / "config.json")
        if record.pop("format", None) != "seedtok.tokenizer":
            raise CheckpointError(f"{folder} is not a SEED tokenizer")
        if (version := record.pop("version", None)) != VERSION:
            raise CheckpointError(f"{folder} is of version {version}; this release reads version {VERSION}")
        shared = shared_vision(folder, record, "embedder.vision.")
        texts = folder / "text_tokenizer"
        text_tokenizer = BertTokenizer.from_pretrained(str(texts)) if texts.is_dir() else None
        with torch.device("meta"):
            model = cls(SeedConfig.from_dict(record), text_tokenizer)
        tensors = read_tensors(folder / "model.safetensors") | shared
        # nearest neighbours are always found in float32
        assign_strictly(model, tensors, str(folder), {"": dtype, "codebook.": torch.float32})
        model._folder = folder
        return model.eval().to(device)


def _optional(part: type[nn.Module], config: Any) -> Any:
    return None if config is None else part(config)
