"""Optional dependencies: which extra of this package installs each."""

from seedtok.core.errors import ConfigError

EXTRAS = {
    "accelerate": "train",
    "pyarrow": "train",
    "pydantic": "train",
    "tensorboard": "train",
    "pycocoevalcap": "evaluate",
    "bitsandbytes": "quantize",
    "lmms_eval": "lmms",
    "protobuf": "llama",
    "sentencepiece": "llama",
    "ray": "ray",
    "tokenizers": "mini",
    "fastapi": "serve",
    "gradio": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
}


def missing_extra(error: ImportError) -> ConfigError | None:
    """What to install where the import of an optional dependency failed; None where another import did."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return ConfigError(f"this needs {package}, which is not installed: pip install 'seedtok[{EXTRAS[package]}]'")
