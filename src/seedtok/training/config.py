"""What a recipe returns: one frozen, validated description of a run, overridable by dotted `key=value`."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from seedtok.core.errors import ConfigError
from seedtok.core.records import json_value
from seedtok.training.stage import Stage

Decay = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A frozen group of fields; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageSettings(Settings, ABC):
    """The part of a run that one kind of stage understands; it builds that stage."""

    @abstractmethod
    def build(self) -> Stage: ...


class Data(Settings):
    """Where samples come from: WebDataset shards, codes of `seedtok tokenize`, or scenes rendered while training.

    Shards and codes need `validation`, the samples that a run is validated on and never trained on: a share above 0
    and below 1 of them, held out by the hash of each picture's identity; a folder of other shards or codes; or
    "scenes", rendered as for a run that trains on these.
    """

    shards: Path | dict[str, float] | None = None  # a folder, or several with their weights: {"cc3m": 3, "coco": 1}
    codes: Path | None = None  # for the language model's stages, which then compute no codes
    validation: Annotated[float, Field(gt=0, lt=1)] | Literal["scenes"] | Path | None = None
    size: int = Field(default=128, ge=1, le=8192)  # pixels a side
    group: int = Field(default=1, ge=1)  # scenes in a row that are near copies of one another: hard negatives
    phrasing: Literal["random", "canonical"] = "random"
    crop: float | None = Field(default=None, gt=0, le=1)  # of shards: least share of a picture that is kept, by chance
    flip: bool = False  # of shards: half the pictures mirrored
    workers: int = Field(default=0, ge=0)  # of shards: processes of each rank that read ahead
    bad_share: float = Field(
        default=0.01, ge=0, le=1
    )  # of shards: unreadable samples that a run leaves out and goes on


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
    data: Data
    optimization: Optimization
    precision: Literal["bf16", "fp16", "no"] = "bf16"
    frozen_precision: Literal["float32", "float16", "bfloat16"] = "float32"
    sharded: bool = False  # over ranks, FSDP2: each holds a part of every parameter; else DDP: each holds them all
    seed: int = Field(default=0, ge=0, lt=2**63)
    log_every: int = Field(default=20, ge=1)
    validate_every: int = Field(default=500, ge=1)
    validate_batches: int = Field(default=4, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)


def _override(settings: Settings, path: Sequence[str], text: str, whole: str) -> Settings:
    head, *rest = path
    names = list(type(settings).model_fields)
    if head not in names:
        near = difflib.get_close_matches(head, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(names)}"
        raise ConfigError(f"unknown setting {whole!r}: there is no {head!r}{hint}")
    value: Any = getattr(settings, head)
    if rest:
        if not isinstance(value, Settings):
            raise ConfigError(f"unknown setting {whole!r}: {head!r} is a single value")
        value = _override(value, rest, text, whole)
    elif isinstance(value, StageSettings):
        raise ConfigError(f"{whole!r} is a group of settings: give them one by one, as in {whole}.KEY=VALUE")
    else:
        try:
            value = json_value(text)
        except ValueError:
            value = None if text in ("none", "None") else text
    fields = {name: getattr(settings, name) for name in names} | {head: value}
    try:
        return type(settings).model_validate(fields)
    except ValidationError as error:
        shown = text if len(text) <= 80 else f"{text[:80]}..."
        raise ConfigError(f"bad value for {whole!r}: {shown!r}: {error.errors()[0]['msg']}") from None


def with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration with `a.b=value` settings applied; values are JSON, or else plain text.

    Raises ConfigError for a setting that does not exist (naming the near miss) or a value that does not fit.
    """
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"expected key=value, got {item!r}")
        changed = _override(config, key.split("."), text, key)
        assert isinstance(changed, RunConfig)
        config = changed
    return config
