"""The numerical reference: random weights, inputs and outputs of the published network at a reduced size.

tests/data/reference.md says what it holds. SEEDTOK_REFERENCE may name a file with more of it.
"""

import json
import os
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

PATH = Path(os.environ.get("SEEDTOK_REFERENCE") or Path(__file__).parent / "data" / "reference.safetensors")


class Reference:
    """Sizes, and tensors by section and part: "v1/state_dict/...", "stage1/grads/..."."""

    def __init__(self, path: Path):
        self.file = safe_open(path, "pt")
        metadata = self.file.metadata()
        self.cfg: dict = json.loads(metadata["cfg"])
        self.borrowed: dict[str, dict[str, str]] = json.loads(metadata.get("borrowed", "{}"))

    def __getitem__(self, key: str) -> Tensor:
        return self.file.get_tensor(key)

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): self[k] for k in self.file.keys() if k.startswith(prefix)}  # noqa: SIM118

    def checkpoint(self, section: str) -> dict[str, Tensor]:
        """All tensors of a section's checkpoint; those of modules that it lacks are of another section."""
        tensors = self.part(f"{section}/state_dict/")
        for module, lender in self.borrowed.get(section, {}).items():
            lent = self.part(f"{lender}/state_dict/").items()
            tensors |= {key: tensor for key, tensor in lent if key.partition(".")[0] == module}
        return tensors
