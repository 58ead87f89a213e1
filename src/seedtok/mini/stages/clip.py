"""A mini CLIP: its ViT gives the tokenizer's patch features, its text tower the diffusion model's text features."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.recalls import retrieval_recalls
from seedtok.data.batches import Batch
from seedtok.mini.judge import labels, places_of
from seedtok.mini.naming import Naming
from seedtok.mini.stages.text import SLOT, enlarge_embeddings, naming_tokens, text_sizes
from seedtok.mini.text import clip_tokenizer
from seedtok.mini.world.source import scenes_of
from seedtok.stages.pixels import clip_normalize
from seedtok.training.config import StageSettings
from seedtok.training.distributed import first_row, gather_with_gradient
from seedtok.training.losses import contrastive_loss
from seedtok.training.stage import Losses, Stage, freeze, full_precision, mean_losses


class ClipSettings(StageSettings):
    image_size: int = 128
    patch_size: int = 16
    vision_width: int = 192
    vision_layers: int = 4
    text_width: int = 256
    text_layers: int = 3
    head_width: int = 64
    projection: int = 256
    start: Path | None = None  # a CLIPModel of these sizes to go on from
    freeze_vision: bool = False
    naming_weight: float = 1.0  # of the losses that name what stands where, on scenes; 0: contrast alone

    def build(self) -> "ClipStage":
        return ClipStage(self)


class ClipStage(Stage):
    """Symmetric contrastive loss between pictures and captions, over all ranks with gradient.

    Contrast alone learns slowly which thing is where, and what it does not need it leaves out of the patch and token
    features, which are all that the Q-Former and the diffusion model see. So on scenes both towers also name what
    stands where: the ViT from its patches, the text tower from ten tokens of its padding, one a place and one for the
    background.
    """

    def __init__(self, settings: ClipSettings) -> None:
        super().__init__()
        self.settings = settings
        start = settings.start
        self.tokenizer = clip_tokenizer() if start is None else CLIPTokenizer.from_pretrained(str(start))
        text = text_sizes(
            self.tokenizer, settings.text_width, settings.text_layers, settings.head_width, settings.projection
        )
        vision = {
            "image_size": settings.image_size, "patch_size": settings.patch_size, "hidden_size": settings.vision_width,
            "intermediate_size": 4 * settings.vision_width, "num_hidden_layers": settings.vision_layers,
            "num_attention_heads": settings.vision_width // settings.head_width, "hidden_act": "gelu",
            "projection_dim": settings.projection,
        }  # fmt: skip
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=settings.projection))
        if start is None:
            # at transformers' 0.02 positions drown in the patches: then places are never learnt
            nn.init.normal_(self.clip.vision_model.embeddings.position_embedding.weight, std=0.5)
            enlarge_embeddings(self.clip.text_model)
        else:
            self.clip.load_state_dict(CLIPModel.from_pretrained(start, dtype=torch.float32).state_dict())
        if settings.freeze_vision:
            freeze(self.clip.vision_model)
            freeze(self.clip.visual_projection)
        if settings.naming_weight:
            self.vision_naming = Naming(settings.vision_width)
            self.text_naming = Naming(settings.text_width)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor, Losses]:
        """Normalised image and text embeddings, each (B, projection), and the naming losses."""
        tokens = naming_tokens(self.tokenizer, batch.captions).to(batch.pixels.device)
        vision = self.clip.vision_model(pixel_values=clip_normalize(batch.pixels))
        # EOS doubles as padding, and attention is causal: no mask is needed
        text = self.clip.text_model(input_ids=tokens)
        named: Losses = {}
        scenes = scenes_of(batch) if self.settings.naming_weight else None
        if scenes is not None:
            things, backgrounds = labels(scenes)
            right = things.to(batch.pixels.device), backgrounds.to(batch.pixels.device)
            patches, slots = vision.last_hidden_state, text.last_hidden_state[:, SLOT:]
            named["vision_naming"] = self.vision_naming(places_of(patches[:, 1:]), patches[:, 0], right)
            named["text_naming"] = self.text_naming(slots[:, :-1], slots[:, -1], right)
        image = F.normalize(self.clip.visual_projection(vision.pooler_output).float(), dim=-1)
        return image, F.normalize(self.clip.text_projection(text.pooler_output).float(), dim=-1), named

    def forward(self, batch: Batch) -> Losses:
        image, text, named = self.embed(batch)
        with torch.no_grad():  # held at 100, and not cut off there: the gradient of what is cut off is zero
            self.clip.logit_scale.clamp_(max=4.6052)
        temperature = self.clip.logit_scale.exp().reciprocal()
        all_image, all_text = gather_with_gradient(image), gather_with_gradient(text)
        with full_precision(image):
            contrast = contrastive_loss(
                image, text, all_image, all_text, temperature, offset=first_row(image), label_smoothing=0.0
            )
        with torch.no_grad(), full_precision(image):
            right = (image @ text.T).argmax(1) == torch.arange(len(image), device=image.device)
        loss = contrast + sum(named.values(), torch.zeros_like(contrast)) * self.settings.naming_weight
        return {"loss": loss, "contrast": contrast, **named, "accuracy": right.float().mean()}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        parts = [self.embed(batch) for batch in batches]
        images, texts = (gather_with_gradient(torch.cat(part)) for part in zip(*(p[:2] for p in parts), strict=True))
        named = mean_losses(p[2] for p in parts)
        with full_precision(images):
            return retrieval_recalls(images @ texts.T) | named

    def export(self, folder: Path) -> None:
        with checkpoint_folder(folder) as new:
            self.clip.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
