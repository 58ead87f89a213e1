"""A codebook that learns by its gradient, in a sharded stage: dead codes restart, and ranks agree.

Run as a script, this file is one of the two ranks.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ranks import fork_ranks, run_ranks
from seedtok.tokenizer.codebook import Codebook, CodebookConfig
from seedtok.training.distributed import gather_full, shard_parameters

pytestmark = pytest.mark.slow
CODES = 8


class Quantizing(nn.Module):
    """A layer that is sharded, and a codebook behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.codebook = Codebook(CodebookConfig(CODES, 4, restart_after=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.codebook(self.layers[0](x)).loss


def inputs() -> Tensor:
    return torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(1)) + 5


def gradient_alone() -> Tensor:
    model = Quantizing().train()
    model(inputs()).backward()
    assert isinstance(model.codebook.weight.grad, Tensor)
    return model.codebook.weight.grad


def rank_main(out: Path) -> None:
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    rank = accelerator.process_index
    model = Quantizing().train()
    shard_parameters(model, accelerator.device, ())
    start = model.codebook.weight.detach().clone()
    own = inputs()[2 * rank : 2 * rank + 2]
    model(own).backward()
    assert isinstance(model.codebook.weight.grad, Tensor)
    gradient = gather_full({"": model.codebook.weight.grad})[""].clone()
    model(own).backward()  # with codes that the first pass did not use
    moved = (model.codebook.weight.detach() != start).any(dim=1)
    found = {
        "gradient": gradient.tolist(), "weight": model.codebook.weight.tolist(), "moved": int(moved.sum()),
        "waiting": int((model.codebook.unused_steps > 1).sum()),
    }  # fmt: skip
    (out / f"{rank}.json").write_text(json.dumps(found))


def test_dead_codes_of_a_sharded_stage_restart(tmp_path):
    run_ranks(__file__, 2, tmp_path / "errors.txt", tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["moved"] > 0
    assert first["waiting"] == 0
    torch.testing.assert_close(torch.tensor(first["gradient"]), gradient_alone(), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork_ranks()
    rank_main(Path(sys.argv[1]))
