"""What several ranks have to agree on: which checkpoint they go on from, and that one could not be written.

Run as a script, this file is one of two ranks.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import seedtok.training.checkpoints
from ranks import fork_ranks, run_ranks
from seedtok.core.errors import CheckpointError
from seedtok.training.checkpoints import save_by_main_rank
from seedtok.training.distributed import differs_over_ranks

pytestmark = pytest.mark.slow


def test_a_difference_is_seen_by_all_and_a_failed_checkpoint_said_to_all(tmp_path):
    run_ranks(__file__, 2, tmp_path / "err", tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["differs"] == [False, True]
        assert "No space left" in found["problem"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000001"]


def one_rank(out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    differs = [differs_over_ranks(3), differs_over_ranks(rank)]
    tensors = {"stage": {"a": torch.ones(2)}}
    save_by_main_rank(out / "run", 1, tensors, {"state": {"step": 1}}, keep=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    seedtok.training.checkpoints.write_tensors = full
    try:
        save_by_main_rank(out / "run", 2, tensors, {"state": {"step": 2}}, keep=2)
        problem = ""
    except CheckpointError as error:
        problem = str(error)
    (out / f"{rank}.json").write_text(json.dumps({"differs": differs, "problem": problem}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork_ranks()
    one_rank(Path(sys.argv[1]))
