"""What a recipe returns: one frozen, validated description of a run, overridable by dotted `key=value`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from seedtok.core.errors import ConfigError
from seedtok.training.settings import Settings, with_override
from seedtok.training.source import Data
from seedtok.training.stage import Stage

__all__ = ["Data", "Optimization", "RunConfig", "Settings", "StageSettings", "with_overrides"]

Decay = Annotated[float, Field(ge=0, lt=1)]


class StageSettings(Settings, ABC):
    """The part of a run that one kind of stage understands; it builds that stage."""

    @abstractmethod
    def build(self) -> Stage: ...

    def for_counting(self) -> "StageSettings":
        """The settings for `seedtok plan`, without what needs values or random choices and costs almost nothing."""
        return self

    def check_kept(self, kept: Mapping[str, Any], start: str | Path) -> None:
        """Raises ConfigError for a setting that is neither its default nor what a start has, which stays as it is."""
        for name, value in kept.items():
            given = getattr(self, name)
            if given != value and given != type(self).model_fields[name].default:
                had = "none" if value is None else value
                raise ConfigError(f"stage.{name}={given}, but {start} has {had} and keeps it: set stage.{name}={had}")


class Optimization(Settings):
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1, le=65536)  # a rank and micro-batch
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    max_grad_norm: float | None = Field(default=1.0, ge=0)  # None or 0: not clipped
    ema_decay: Decay | None = None  # None or 0: no average


class RunConfig(Settings):
    recipe: str
    stage: SerializeAsAny[StageSettings]
    data: SerializeAsAny[Data]
    optimization: Optimization
    precision: Literal["auto", "bf16", "fp16", "no"] = "auto"  # of products while training; auto: bf16 where it is fast
    frozen_precision: Literal["float32", "float16", "bfloat16"] = "float32"
    sharded: bool = False  # over ranks, FSDP2: each holds a part of every parameter; else DDP: each holds them all
    timeout_minutes: int = Field(default=10, ge=1)  # that a rank waits for the others before it gives up
    seed: int = Field(default=0, ge=0, lt=2**63)
    log_every: int = Field(default=20, ge=1)
    validate_every: int = Field(default=500, ge=1)
    validate_batches: int = Field(default=4, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)


def with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration with `a.b=value` settings applied; values are JSON, or else plain text.

    Raises ConfigError for a setting that does not exist (suggesting a similar name) or a value that does not fit.
    """
    for item in overrides:
        config = with_override(config, item)
    return config
