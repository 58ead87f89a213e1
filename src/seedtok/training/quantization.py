"""Stage II (section 2.2.2): the codebook, and what turns codes back into causal embeddings and text features."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.data.batches import Batch
from seedtok.evaluation.metrics import retrieval_recalls
from seedtok.hub import source_of
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig, Quantized, codebook_usage
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig
from seedtok.tokenizer.seed import SeedConfig, SeedTokenizer
from seedtok.training.config import StageSettings
from seedtok.training.losses import cosine_loss
from seedtok.training.pictures import side_by_side, to_pil
from seedtok.training.pixels import clip_normalize, unit_range
from seedtok.training.stage import Losses, Stage, freeze, full_precision, mean_losses


class QuantizationSettings(StageSettings):
    embedder: Path  # stage I's result
    image_decoder: str | Path  # a StableDiffusionPipeline: "mini", a folder, or a hub id
    codebook_size: int = 8192  # paper
    codebook_dim: int = 32  # paper
    beta: float = 0.25  # paper's code
    legacy: bool = True  # paper's code
    normalize: bool = False
    ema_decay: float | None = None
    restart_after: int | None = None
    kmeans_batches: int = 0  # of data that codebook and decode head start from; 0: the paper's initialisation
    position_std: float = 0.0  # deviation of the decoders' positions at the start; paper's code: 0
    decoder_layers: int = 4  # paper
    reverse_layers: int = 4  # paper
    dropout: float = 0.0
    vq_weight: float = 5.0  # the successor's
    embedding_weight: float = 2.0  # the successor's
    text_weight: float = 0.5  # the successor's
    sample_steps: int = 10
    guidance_scale: float = 2.5

    def build(self) -> "QuantizationStage":
        embedder = ImageTextEmbedder.from_pretrained(self.embedder)
        return QuantizationStage(self, embedder, ImageDecoder.from_pretrained(self.image_decoder))


class QuantizationStage(Stage):
    """Codebook loss, cosine to the causal embeddings, and squared error to the caption's text features.

    The target is the canonical caption's features: those of a random wording would be learnt as their average.
    """

    def __init__(self, settings: QuantizationSettings, embedder: ImageTextEmbedder, decoder: ImageDecoder) -> None:
        super().__init__()
        self.settings = settings
        width, heads = embedder.config.qformer.width, embedder.config.qformer.heads
        codebook = CodebookConfig(
            settings.codebook_size, settings.codebook_dim, settings.beta, settings.legacy, settings.normalize,
            settings.ema_decay, settings.restart_after,
        )  # fmt: skip
        config = SeedConfig(
            embedder=embedder.config,
            codebook=codebook,
            code_decoder=CodeDecoderConfig(embedder.config.qformer.queries, width, settings.decoder_layers, heads),
            reverse_qformer=ReverseQFormerConfig(
                queries=decoder.pipeline.tokenizer.model_max_length, width=width, layers=settings.reverse_layers,
                heads=heads, mlp_width=4 * width, encoder_width=width, dropout=settings.dropout,
                output_width=decoder.pipeline.text_encoder.config.hidden_size,
            ),
            image_decoder=source_of(settings.image_decoder, "diffusion"),
            num_inference_steps=settings.sample_steps,
            guidance_scale=settings.guidance_scale,
        )  # fmt: skip
        self.seed = SeedTokenizer(config, embedder.text_tokenizer)
        self.seed.embedder = freeze(embedder)
        self.decoder = decoder
        self.text_encoder = freeze(decoder.pipeline.text_encoder)

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Starts the output projection's bias at the mean text feature; from data, if wanted, codebook and decode head.

        Where the mean has to be learnt, learning it moves all queries of the Reverse Q-Former the same way until they
        are one, and they do not come apart again. Where codes leave the decode head small, beside what all of them
        share, or without positions, it takes the Reverse Q-Former long to find the ones it needs.
        """
        samples, means = [], []
        for batch in islice(batches, max(self.settings.kmeans_batches, 8)):
            if len(means) < 8:
                means.append(self.decoder.text_features(batch.canonical).float().mean((0, 1)))
            if self.settings.kmeans_batches:
                embeddings = self.seed.causal_embeddings(clip_normalize(batch.pixels))
                samples.append(self.seed.encode_head(embeddings).flatten(0, 1))
        self.seed.reverse_qformer.output.bias.copy_(torch.stack(means).mean(0))
        if samples:
            self.seed.codebook.initialise(torch.cat(samples))
            self._scale_decode_head(torch.cat(samples[:8]))
        if self.settings.position_std:
            for decoder in (self.seed.code_decoder, self.seed.text_decoder):
                torch.nn.init.normal_(decoder.positions, std=self.settings.position_std)

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
        return self._losses(batch)[0]

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
        counts = torch.zeros(self.settings.codebook_size)
        every: list[Losses] = []
        images: list[Tensor] = []
        texts: list[Tensor] = []
        for batch in batches:
            losses, quantized, reconstructed = self._losses(batch)
            every.append(losses)
            counts += torch.bincount(quantized.codes.flatten().cpu(), minlength=len(counts))
            images.append(self.seed.embedder.project_queries(reconstructed))
            texts.append(self.seed.embed_texts(batch.captions))
        usage = codebook_usage(counts)
        with full_precision(images[0]):
            recalls = retrieval_recalls(self.seed.embedder.similarity(torch.cat(images), torch.cat(texts)))
        used = {"codes_used": usage.used, "perplexity": usage.perplexity}
        return mean_losses(every) | used | {"r_mean": recalls["r_mean"]}

    def draw(self, batch: Batch) -> Image.Image:
        pixels = batch.pixels[:16]
        vectors = self.seed.quantize(self.seed.causal_embeddings(clip_normalize(pixels))).vectors
        self.decoder.pipeline.to(pixels.device)  # it is no part of the stage, so nothing else moved it
        pictures = self.decoder.draw(
            self.seed.generation_embeddings(vectors),
            self.settings.sample_steps,
            self.settings.guidance_scale,
            torch.Generator().manual_seed(0),
        )
        return side_by_side(to_pil(unit_range(pixels)), pictures)

    def export(self, folder: Path) -> None:
        self.seed.save_pretrained(folder)
