"""The configuration of a SEED language model as transformers knows one."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

from seedtok.core.checkpoint import check_version
from seedtok.core.kinds import AUTO
from seedtok.core.records import from_record
from seedtok.lm.plain_files import VERSION
from seedtok.lm.vocabulary import Vocabulary


class SeedLMConfig(PretrainedConfig):
    """A plain language model and the layout of its visual ids.

    Args:
        text_config: the configuration of the causal LM, or its fields.
        seedtok: what a plain language model has under "seedtok": the layout of its ids, the codebook's id, the image
            tokenizer.
        image_token_id: the id that stands for each code of an image whose codes are not known yet.
        options: as of `PretrainedConfig`.

    Raises:
        CheckpointError: a layout that cannot be, or that of a newer release.
    """

    model_type = AUTO
    sub_configs: ClassVar = {"text_config": AutoConfig}  # type: ignore[assignment]

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        seedtok: dict[str, Any] | None = None,
        image_token_id: int | None = None,
        **options: Any,
    ):
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.seedtok = seedtok or {}
        self.image_token_id = image_token_id
        check_version(self.seedtok.get("version", VERSION), VERSION, "this configuration")
        super().__init__(**options)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Does nothing: a folder names the classes of this package, and has no copy of their code."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Which ids are text, codes, begin and end of an image."""
        return from_record(Vocabulary, self.seedtok.get("layout"), "visual ids")

    @property
    def context(self) -> int:
        """The longest sequence the LM takes, in ids."""
        return int(getattr(self.get_text_config(), "max_position_embeddings", None) or 1 << 20)
