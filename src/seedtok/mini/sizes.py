"""Stages of the mini recipes before the runs that they stand on have been made: to plan with."""

from seedtok.mini import recipes as mini
from seedtok.stages.autoregression import AutoregressionSettings
from seedtok.stages.contrastive import ContrastiveSettings
from seedtok.stages.quantization import QuantizationSettings, QuantizationStage
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.training.config import RunConfig
from seedtok.training.stage import Stage


def outline(config: RunConfig) -> tuple[Stage, str | None]:
    """The stage of one of the mini recipes, and a line on what was not there; that part's weights have no meaning.

    A tokenizer's embedder has the sizes of `mini.stage1`, a language model to go on from those of the recipe itself.
    """
    settings = config.stage
    if isinstance(settings, QuantizationSettings) and not settings.embedder.is_dir():
        first = mini.stage1().stage
        assert isinstance(first, ContrastiveSettings)
        decoder = ImageDecoder.from_pretrained(settings.image_decoder)
        stage = QuantizationStage(settings, first.build().embedder, decoder)
        return stage, f"{settings.embedder} is not there yet: planned with an embedder of mini.stage1's sizes"
    if isinstance(settings, AutoregressionSettings) and settings.start is not None and not settings.start.is_dir():
        stage = settings.model_copy(update={"start": None}).build()
        return stage, f"{settings.start} is not there yet: planned with a language model of this recipe's sizes"
    return settings.build(), None
