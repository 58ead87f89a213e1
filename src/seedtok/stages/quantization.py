"""Stage II (section 2.2.2): trains the codebook, the two code decoders and the Reverse Q-Former."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.errors import ConfigError
from seedtok.core.hub import source_of
from seedtok.core.images import side_by_side, to_pil
from seedtok.core.recalls import retrieval_recalls
from seedtok.data.batches import Batch
from seedtok.stages.image_codes import encoder_samples
from seedtok.stages.pixels import clip_normalize, unit_range
from seedtok.stages.text_features import mean_text_feature
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig, Quantized, codebook_usage
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.training.config import StageSettings
from seedtok.training.distributed import gather_with_gradient, rank_and_world, sum_over_ranks
from seedtok.training.losses import cosine_loss
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze, full_precision, mean_losses

MEAN_BATCHES = 8  # for the mean text feature, and for the vectors that the decode head is scaled on
USAGE_SAMPLES = 20  # vectors a code, on average, that are counted before the usage of the codebook is judged


class QuantizationSettings(StageSettings):
    embedder: Path  # stage I's result
    image_decoder: NameOrFolder  # a StableDiffusionPipeline: "mini", a folder, or a hub id
    # a SeedTokenizer to go on from, whose sizes and codes it keeps, with the embedder above; None: from nothing
    start: NameOrFolder | None = None
    train_codebook: bool = True  # off: every code keeps its vector, for a language model that knows them; paper: on
    codebook_size: int = Field(default=8192, ge=1, le=65536)  # paper
    codebook_dim: int = Field(default=32, ge=1)  # paper
    beta: float = 0.25  # paper's code
    legacy: bool = True  # paper's code
    normalize: bool = False
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    start_weight: float = Field(default=1.0, gt=0)  # in moving averages, of a sample of k-means beside one of a batch
    restart_after: int | None = Field(default=None, ge=1)  # steps without use that move a code; paper's code: never
    kmeans_per_code: float = Field(default=0.0, ge=0)  # encoder outputs a code, for k-means to start from; paper's: 0
    scale_decode_head: bool = False  # start the decode head with outputs of unit variance; paper's code: no
    mean_feature_bias: bool = False  # start the output projection's bias at the mean text feature; paper's code: no
    usage_warning: float | None = Field(default=0.1, ge=0, le=1)  # warn when a smaller share of codes is in use
    position_std: float = 0.0  # deviation of the decoders' positions at the start; paper's code: 0
    decoder_layers: int = 4  # paper
    reverse_layers: int = 4  # paper
    dropout: float = 0.0
    vq_weight: float = 5.0  # the successor's
    embedding_weight: float = 2.0  # the successor's
    text_weight: float = 0.5  # the successor's
    sample_steps: int = 10
    guidance_scale: float = 2.5

    def for_counting(self) -> "QuantizationSettings":
        return self.model_copy(update={"restart_after": None})

    def build(self) -> "QuantizationStage":
        embedder = ImageTextEmbedder.from_pretrained(self.embedder)
        return QuantizationStage(self, embedder, ImageDecoder.from_pretrained(self.image_decoder))


def _config_from_nothing(
    settings: QuantizationSettings, embedder: EmbedderConfig, decoder: ImageDecoder, source: str
) -> SeedConfig:
    width, heads = embedder.qformer.width, embedder.qformer.heads
    codebook = CodebookConfig(
        settings.codebook_size, settings.codebook_dim, settings.beta, settings.legacy, settings.normalize,
        settings.ema_decay, settings.restart_after,
    )  # fmt: skip
    return SeedConfig(
        embedder=embedder,
        codebook=codebook,
        code_decoder=CodeDecoderConfig(embedder.qformer.queries, width, settings.decoder_layers, heads),
        reverse_qformer=ReverseQFormerConfig(
            queries=decoder.pipeline.tokenizer.model_max_length, width=width, layers=settings.reverse_layers,
            heads=heads, mlp_width=4 * width, encoder_width=width, dropout=settings.dropout,
            output_width=decoder.pipeline.text_encoder.config.hidden_size,
        ),
        image_decoder=source,
        num_inference_steps=settings.sample_steps,
        guidance_scale=settings.guidance_scale,
    )  # fmt: skip


def _from_start(start: str | Path, embedder: EmbedderConfig, source: str) -> SeedTokenizer:
    """A tokenizer's codebook and decoders, for an embedder of the same sizes and another image decoder."""
    seed = SeedTokenizer.from_pretrained(start)
    if seed.reverse_qformer is None or seed.code_decoder is None:
        raise ConfigError(f"{start} has no Reverse Q-Former and code decoder, which stage II trains")
    if seed.config.embedder.qformer.width != embedder.qformer.width:
        raise ConfigError(f"{start} has embeddings of another width than stage.embedder: start stage I from it")
    seed.config = replace(seed.config, embedder=embedder, image_decoder=source)
    seed.familiarity = None  # measured on the features of another embedder
    return seed


def _kept(config: SeedConfig) -> dict[str, Any]:
    """What a tokenizer to go on from keeps, by the names of the settings."""
    codebook, reverse, decoder = config.codebook, config.reverse_qformer, config.code_decoder
    assert reverse is not None
    assert decoder is not None
    return {
        "codebook_size": codebook.size, "codebook_dim": codebook.dim, "beta": codebook.beta, "legacy": codebook.legacy,
        "normalize": codebook.normalize, "ema_decay": codebook.ema_decay, "restart_after": codebook.restart_after,
        "decoder_layers": decoder.layers, "reverse_layers": reverse.layers, "dropout": reverse.dropout,
        "sample_steps": config.num_inference_steps, "guidance_scale": config.guidance_scale,
    }  # fmt: skip


class QuantizationStage(Stage):
    """Codebook loss, cosine to the causal embeddings, and squared error to the caption's text features.

    The target is the canonical caption's features: those of a random wording would be learnt as their average.
    """

    def __init__(self, settings: QuantizationSettings, embedder: ImageTextEmbedder, decoder: ImageDecoder) -> None:
        super().__init__()
        self.settings = settings
        source = source_of(settings.image_decoder, "diffusion")
        if settings.start is None:
            config = _config_from_nothing(settings, embedder.config, decoder, source)
            self.seed = SeedTokenizer(config, embedder.text_tokenizer)
        else:
            self.seed = _from_start(settings.start, embedder.config, source)
            settings.check_kept(_kept(self.seed.config), settings.start)
        self.seed.embedder = freeze(embedder)
        self.interpolation = embedder.config.vision.interpolation
        self.seed.codebook.start_weight = settings.start_weight
        if not settings.train_codebook:
            freeze(self.seed.codebook)
        self.recent_counts: Tensor  # how often each code was chosen since the usage was last judged, (codebook size,)
        self.register_buffer("recent_counts", torch.zeros(self.seed.config.codebook.size))
        self.warned = False
        self.decoder = decoder
        self.text_encoder = freeze(decoder.pipeline.text_encoder)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Casts frozen modules to `dtype`, and with the text encoder the whole pipeline: its parts have to agree.

        A frozen codebook stays in float32: codes are of these very vectors.
        """
        self.seed.embedder.to(dtype)
        self.decoder.to(dtype=dtype)

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        """What the settings ask to start from data: the codebook, the decode head, the output projection's bias.

        Where the mean text feature has to be learnt, learning it moves all queries of the Reverse Q-Former the same way
        until they are one, and they do not come apart again. Where codes leave the decode head small, beside what all
        of them share, or without positions, it takes the Reverse Q-Former long to find the ones it needs.

        All ranks are given the same batches, and end with the same weights; each encodes a share of the pictures. Of a
        tokenizer to go on from, nothing is initialised.
        """
        s = self.settings
        if s.start is not None:
            return
        stream = iter(batches)
        first = list(islice(stream, MEAN_BATCHES)) if s.mean_feature_bias or s.scale_decode_head else []
        if s.mean_feature_bias:
            self.seed.reverse_qformer.output.bias.copy_(mean_text_feature(self.decoder, first))
        if s.kmeans_per_code:
            wanted = s.kmeans_per_code * s.codebook_size / rank_and_world()[1]  # of each rank
            self.seed.codebook.initialise(encoder_samples(chain(first, stream), self._encoder_outputs, wanted))
        if s.scale_decode_head:
            vectors = torch.cat([self._encoder_outputs(batch) for batch in first])
            self._scale_decode_head(self.seed.codebook.normalized(vectors))
        if s.position_std:
            for decoder in (self.seed.code_decoder, self.seed.text_decoder):
                torch.nn.init.normal_(decoder.positions, std=s.position_std)

    def _encoder_outputs(self, batch: Batch) -> Tensor:
        """What the codebook quantises of a batch (B * codes, codebook dim), in float32."""
        embeddings = self.seed.causal_embeddings(clip_normalize(batch.pixels))
        return self.seed.encode_head(embeddings.to(self.seed.dtype)).float().flatten(0, 1)

    def _scale_decode_head(self, vectors: Tensor) -> None:
        """Has both layers of the decode head put out zero mean and unit variance on these vectors (N, codebook dim)."""
        first, nonlinear, second = self.seed.decode_head
        for layer, inputs in ((first, lambda: vectors), (second, lambda: nonlinear(first(vectors)))):
            assert isinstance(layer, nn.Linear)
            out = layer(inputs())
            mean, std = out.mean(0), out.std(0)
            layer.weight.div_(std[:, None])
            layer.bias.sub_(mean).div_(std)

    def forward(self, batch: Batch) -> Losses:
        losses, quantized, _ = self._losses(batch)
        if self.training:
            codes = quantized.codes.flatten()
            self.recent_counts.index_add_(0, codes, self.recent_counts.new_ones(len(codes)))
        return losses

    def notices(self) -> list[str]:
        """Once, a line that a smaller share of the codebook is in use than `usage_warning`."""
        size, least = self.seed.config.codebook.size, self.settings.usage_warning
        if least is None or self.warned or float(self.recent_counts.sum()) < USAGE_SAMPLES * size:
            return []
        usage = codebook_usage(self.recent_counts)
        self.recent_counts.zero_()
        if usage.share >= least:
            return []
        self.warned = True
        return [
            f"the codebook is collapsing: {usage.used} of {size} codes are in use ({usage.share:.1%}; warned of under "
            f"{least:.1%}). Start from k-means (stage.kmeans_per_code=64) and restart dead codes (stage.restart_after="
            "100), or set stage.usage_warning"
        ]

    def _losses(self, batch: Batch) -> tuple[Losses, Quantized, Tensor]:
        """The losses; beside them what the codebook made of the pictures, and their reconstructed embeddings."""
        s = self.settings
        with torch.no_grad():
            embeddings = self.seed.causal_embeddings(clip_normalize(batch.pixels))
            target = self.decoder.text_features(batch.canonical).float()
        quantized = self.seed.quantize(embeddings)
        reconstructed = self.seed.reconstructed_embeddings(quantized.vectors)
        cosine = cosine_loss(reconstructed.float(), embeddings.float())
        text = F.mse_loss(self.seed.generation_embeddings(quantized.vectors).float(), target)
        loss = s.vq_weight * quantized.loss + s.embedding_weight * cosine + s.text_weight * text
        return {"loss": loss, "vq": quantized.loss, "cosine": cosine, "text": text}, quantized, reconstructed

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        counts = torch.zeros(self.seed.config.codebook.size)
        every: list[Losses] = []
        images: list[Tensor] = []
        texts: list[Tensor] = []
        for batch in batches:
            losses, quantized, reconstructed = self._losses(batch)
            every.append(losses)
            counts += torch.bincount(quantized.codes.flatten().cpu(), minlength=len(counts))
            if self.seed.embedder.has_text_branch:
                images.append(self.seed.embedder.project_queries(reconstructed))
                texts.append(self.seed.embed_texts(batch.captions))
        usage = codebook_usage(sum_over_ranks(counts))
        found = mean_losses(every) | {"codes_used": usage.used, "perplexity": usage.perplexity}
        if not images:
            return found
        with full_precision(images[0]):
            every_image, every_text = (gather_with_gradient(torch.cat(part)) for part in (images, texts))
            recalls = retrieval_recalls(self.seed.embedder.similarity(every_image, every_text))
        return found | {"r_mean": recalls["r_mean"]}

    def draw(self, batch: Batch) -> Image.Image:
        pixels = batch.pixels[:16]
        vectors = self.seed.quantize(self.seed.causal_embeddings(clip_normalize(pixels))).vectors
        self.decoder.to(pixels.device)  # it is no part of the stage, so nothing else moved it
        pictures = self.decoder.draw(
            self.seed.generation_embeddings(vectors),
            self.settings.sample_steps,
            self.settings.guidance_scale,
            torch.Generator().manual_seed(0),
            batch_size=4,  # at 512 x 512 more take much memory
        )
        return side_by_side(to_pil(unit_range(pixels)), pictures)

    def export(self, folder: Path) -> None:
        self.seed.save_pretrained(folder)
