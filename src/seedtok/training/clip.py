"""A mini CLIP: its ViT gives the tokenizer's patch features, its text tower the diffusion model's text features."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from seedtok.data.batches import Batch
from seedtok.data.concepts import BACKGROUNDS, CONCEPTS
from seedtok.data.scenes import caption, scene_stream
from seedtok.evaluation.judge import labels
from seedtok.evaluation.metrics import retrieval_recalls
from seedtok.training.config import StageSettings
from seedtok.training.distributed import first_row, gather_with_gradient
from seedtok.training.losses import contrastive_loss
from seedtok.training.pixels import clip_normalize
from seedtok.training.stage import Losses, Stage, freeze, full_precision
from seedtok.training.text import clip_tokenizer


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
    slot_weight: float = 1.0  # of naming what stands where from the padding's last ten tokens
    word_weight: float = 1.0  # of the bag-of-words loss, which finds the icons' names long before contrast does

    def build(self) -> "ClipStage":
        return ClipStage(self)


class ClipStage(Stage):
    """Symmetric contrastive loss between pictures and captions, over all ranks with gradient.

    Beside it the ViT names the caption's words, as a bag weighted by rarity, with a head that is not kept: the
    superclass loss of Huang et al. 2024. And the text tower's last padding tokens learn to say, one a place and one for
    the background, what the caption puts there: contrast alone leaves which thing is where out of the token features,
    and the diffusion model draws from nothing else.
    """

    def __init__(self, settings: ClipSettings) -> None:
        super().__init__()
        start = settings.start
        self.tokenizer = clip_tokenizer() if start is None else CLIPTokenizer.from_pretrained(str(start))
        text = {
            "vocab_size": len(self.tokenizer), "hidden_size": settings.text_width,
            "intermediate_size": 4 * settings.text_width, "num_hidden_layers": settings.text_layers,
            "num_attention_heads": settings.text_width // settings.head_width, "max_position_embeddings": 77,
            "hidden_act": "gelu", "projection_dim": settings.projection,
            "bos_token_id": self.tokenizer.bos_token_id, "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }  # fmt: skip
        vision = {
            "image_size": settings.image_size, "patch_size": settings.patch_size, "hidden_size": settings.vision_width,
            "intermediate_size": 4 * settings.vision_width, "num_hidden_layers": settings.vision_layers,
            "num_attention_heads": settings.vision_width // settings.head_width, "hidden_act": "gelu",
            "projection_dim": settings.projection,
        }  # fmt: skip
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=settings.projection))
        if settings.start is None:
            # at transformers' 0.02 the positions drown in the patches, and places are never learnt
            nn.init.normal_(self.clip.vision_model.embeddings.position_embedding.weight, std=0.5)
        else:
            self.clip.load_state_dict(CLIPModel.from_pretrained(settings.start, dtype=torch.float32).state_dict())
        if settings.freeze_vision:
            freeze(self.clip.vision_model)
            freeze(self.clip.visual_projection)
        self.settings = settings
        self.slots = nn.Linear(settings.text_width, 1 + len(CONCEPTS))
        self.background = nn.Linear(settings.text_width, len(BACKGROUNDS))
        self.words = nn.Linear(settings.vision_width, len(self.tokenizer))
        self.rarity: Tensor
        self.register_buffer("rarity", self._rarity(), persistent=False)

    def _rarity(self) -> Tensor:
        """Inverse document frequency of each token, so that what names a thing outweighs what every caption has."""
        captions = [caption(scene) for scene in islice(scene_stream("train", 0), 2000)]
        counts = torch.ones(len(self.tokenizer))
        for ids in self.tokenizer(captions).input_ids:
            counts[list(set(ids))] += 1
        return torch.log((len(captions) + 1) / counts)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor, Losses]:
        """Normalised image and text embeddings, each (B, projection), and the losses beside the contrast."""
        padding = "max_length" if self.settings.slot_weight else "longest"
        tokens = self.tokenizer(batch.captions, padding=padding, truncation=True, return_tensors="pt")
        tokens = tokens.to(batch.pixels.device)
        vision = self.clip.vision_model(pixel_values=clip_normalize(batch.pixels)).pooler_output
        # EOS doubles as padding, and attention is causal: no mask is needed
        states = self.clip.text_model(input_ids=tokens.input_ids)
        text = states.pooler_output
        image = F.normalize(self.clip.visual_projection(vision).float(), dim=-1)
        bag = torch.zeros(len(text), len(self.tokenizer), device=text.device).scatter_(1, tokens.input_ids, 1.0)
        bag = bag * self.rarity
        beside = {"words": F.cross_entropy(self.words(vision).float(), bag / bag.sum(1, keepdim=True))}
        if self.settings.slot_weight and batch.scenes is not None:
            things, backgrounds = (x.to(text.device) for x in labels(batch.scenes))
            slots = self.slots(states.last_hidden_state[:, -things.shape[1] :]).float()
            color = self.background(states.last_hidden_state[:, -things.shape[1] - 1]).float()
            beside["slots"] = 9 * F.cross_entropy(slots.flatten(0, 1), things.flatten())
            beside["slots"] = beside["slots"] + F.cross_entropy(color, backgrounds)
        return image, F.normalize(self.clip.text_projection(text).float(), dim=-1), beside

    def forward(self, batch: Batch) -> Losses:
        image, text, beside = self.embed(batch)
        temperature = self.clip.logit_scale.clamp(max=4.6052).exp().reciprocal()
        all_image, all_text = gather_with_gradient(image), gather_with_gradient(text)
        with full_precision(image):
            loss = contrastive_loss(
                image, text, all_image, all_text, temperature, offset=first_row(image), label_smoothing=0.0
            )
        with torch.no_grad(), full_precision(image):
            right = (image @ text.T).argmax(1) == torch.arange(len(image), device=image.device)
        total = loss + self.settings.word_weight * beside["words"]
        if "slots" in beside:
            total = total + self.settings.slot_weight * beside["slots"]
        return {
            "loss": total,
            "contrast": loss,
            **beside,
            "accuracy": right.float().mean(),
            "temperature": temperature,
        }

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        pairs = [self.embed(batch) for batch in batches]
        images, texts = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
        with full_precision(images):
            return retrieval_recalls(images @ texts.T)

    def export(self, folder: Path) -> None:
        self.clip.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
