"""What lmms-eval learns of this package, by the entry point `lmms_eval.models`."""

from typing import Any


def manifest() -> Any:
    """The model `seedtok`, of `evaluation.lmms_model`, which is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest("seedtok", simple_class_path="seedtok.evaluation.lmms_model.LmmsReader")
