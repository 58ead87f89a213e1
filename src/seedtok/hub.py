"""Where checkpoints are: in the package, in a folder, on a model hub."""

from importlib.resources import files
from pathlib import Path

from seedtok.errors import CheckpointError


def shipped(part: str) -> Path:
    """A folder of the mini weights that come with the package."""
    return Path(str(files("seedtok") / "pretrained" / "mini" / part))


def resolve(name: str | Path) -> Path:
    """The folder of a tokenizer: "mini", a path, or a hub id (downloaded). Raises CheckpointError for none of these."""
    if str(name) == "mini":
        return shipped("tokenizer")
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(f"no such checkpoint: {name} (expected 'mini', a folder, or a hub id)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"no folder {name}, and the hub gave none: {str(error).splitlines()[0]}") from None
