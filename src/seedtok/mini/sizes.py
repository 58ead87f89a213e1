"""Stages of the mini recipes before the runs that they stand on have been made: to plan with."""

from pathlib import Path
from tempfile import TemporaryDirectory

from seedtok.mini import recipes as mini
from seedtok.stages.autoregression import AutoregressionSettings
from seedtok.stages.contrastive import ContrastiveSettings
from seedtok.stages.quantization import QuantizationSettings, QuantizationStage
from seedtok.stages.reading import ReadingSettings
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.training.config import RunConfig
from seedtok.training.stage import Stage


def outline(config: RunConfig) -> tuple[Stage, str | None]:
    """The stage of one of the mini recipes, and a line on what was not there; that part's weights have no meaning.

    A Q-Former has the sizes of `mini.stage1` or of the recipe itself, as has a language model to go on from.
    """
    settings = config.stage
    if isinstance(settings, ContrastiveSettings) and _is_missing(settings.start):
        line = f"{settings.start} is not there yet: planned with a Q-Former of this recipe's sizes"
        return _from_nothing(settings).build(), line
    if isinstance(settings, ReadingSettings) and _is_missing(settings.qformer):
        with TemporaryDirectory() as folder:
            _embedder().save_pretrained(folder)
            stage = settings.model_copy(update={"qformer": Path(folder)}).build()
        return stage, f"{settings.qformer} is not there yet: planned with a Q-Former of mini.stage1's sizes"
    if isinstance(settings, QuantizationSettings) and not settings.embedder.is_dir():
        decoder = ImageDecoder.from_pretrained(settings.image_decoder)
        stage = QuantizationStage(settings, _embedder(), decoder)
        return stage, f"{settings.embedder} is not there yet: planned with an embedder of mini.stage1's sizes"
    if isinstance(settings, AutoregressionSettings) and settings.start is not None and not settings.start.is_dir():
        stage = settings.model_copy(update={"start": None}).build()
        return stage, f"{settings.start} is not there yet: planned with a language model of this recipe's sizes"
    return settings.build(), None


def _is_missing(start: str | Path | None) -> bool:
    return isinstance(start, Path) and not start.is_dir()


def _from_nothing(settings: ContrastiveSettings) -> ContrastiveSettings:
    return settings.model_copy(update={"start": None, "clip": settings.clip or "mini"})


def _embedder() -> ImageTextEmbedder:
    settings = mini.stage1().stage
    assert isinstance(settings, ContrastiveSettings)
    return _from_nothing(settings).build().embedder
