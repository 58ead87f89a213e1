"""Two processes with half the batch each learn what one process with all of it learns.

Run as a script, this file is one of the two processes.
"""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ranks import fork_ranks, run_ranks
from seedtok.data.batches import Batch, Stride
from seedtok.mini.stages.contrastive import MiniContrastiveSettings
from seedtok.mini.stages.vision import VisionSettings
from seedtok.mini.world.source import SceneData
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.training.config import Optimization, RunConfig, with_overrides
from seedtok.training.loop import train

pytestmark = pytest.mark.slow
PER_RANK = 3


def run_config(clip: Path, causal: bool, batch_size: int) -> RunConfig:
    return RunConfig(
        recipe="tests.contrastive",
        stage=MiniContrastiveSettings(
            clip=clip,
            causal=causal,
            width=32,
            layers=2,
            heads=2,
            queries=4,
            projection=16,
            label_smoothing=0.1,
        ),
        data=SceneData(size=64, group=2),
        optimization=Optimization(steps=4, batch_size=batch_size, lr=1e-2, warmup_steps=1),
        precision="no",
        log_every=1,
        validate_batches=1,
    )


def training_batches(config: RunConfig, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    return config.data.batches(config.optimization.batch_size, config.seed, Stride(start, rank, world))


def spread(module: nn.Module) -> None:
    """Weights so large that pictures and texts differ: fresh ones give gradients that are mostly cancellation."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)


def one_step(config: RunConfig, accelerator: Accelerator) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of one step on this rank's share of the first batch."""
    torch.manual_seed(0)
    stage = config.stage.build()
    spread(stage)
    wrapped = accelerator.prepare(stage)
    rank, world = accelerator.process_index, accelerator.num_processes
    loss = wrapped(next(training_batches(config, 0, rank, world)))["loss"]
    accelerator.backward(loss)
    return loss.detach(), {n: p.grad for n, p in stage.named_parameters() if p.grad is not None}


def rank_main(clip: Path, out: Path) -> None:
    """What each of the two processes does."""
    accelerator = Accelerator(mixed_precision="no")
    assert dist.get_backend() == "gloo"
    for causal in (True, False):
        loss, gradients = one_step(run_config(clip, causal, PER_RANK), accelerator)
        dist.all_reduce(loss)
        gradients["loss"] = loss / accelerator.num_processes
        save_file(gradients, out / f"{causal}.{accelerator.process_index}.safetensors")
    train(started(run_config(clip, True, PER_RANK)), out / "run")


def started(config: RunConfig) -> RunConfig:
    """The run, from an embedder whose embeddings differ."""
    assert isinstance(config.stage, MiniContrastiveSettings)
    return with_overrides(config, [f"stage.start={config.stage.clip / 'start'}", "optimization.lr=1e-3"])


def cosines(embedder: Path, clip: Path) -> Tensor:
    model = ImageTextEmbedder.from_pretrained(embedder)
    (batch,) = run_config(clip, True, 8).data.held_out(8, 1, seed=0)
    with torch.no_grad():
        images = model.project_queries(model.qformer(model.patch_features(clip_normalize(batch.pixels))))
        return model.similarity(images, model.embed_texts(batch.captions))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    VisionSettings(image_size=64, stem=(8, 16, 16), width=32, layers=1, head_width=16).build().export(folder)
    stage = run_config(folder, True, 1).stage.build()
    spread(stage)
    stage.export(folder / "start")
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, clip) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    run_ranks(__file__, 2, out / "ranks.err", clip, out)
    return out


@pytest.mark.parametrize("causal", [True, False], ids=["final query", "best query"])
def test_loss_and_gradients_are_those_of_the_whole_batch(clip, two_ranks, causal):
    loss, gradients = one_step(run_config(clip, causal, 2 * PER_RANK), Accelerator(mixed_precision="no"))
    found = [load_file(two_ranks / f"{causal}.{rank}.safetensors") for rank in range(2)]
    assert len(gradients) > 20
    for rank in range(2):
        assert found[rank].keys() == gradients.keys() | {"loss"}
        torch.testing.assert_close(found[rank]["loss"], loss, rtol=1e-6, atol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                found[rank][name], gradient, rtol=1e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}"
            )


def test_a_run_is_that_of_one_process(clip, two_ranks, tmp_path):
    final = train(started(run_config(clip, True, 2 * PER_RANK)), tmp_path / "run")
    # Parameters would not do: where a gradient is rounding alone, AdamW walks by its sign
    start, whole, halves = (cosines(f, clip) for f in (clip / "start", final, two_ranks / "run" / "final"))
    assert (whole - start).abs().max() > 0.01
    torch.testing.assert_close(halves, whole, rtol=0, atol=1e-4)
    steps = [json.loads(line)["step"] for line in (two_ranks / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]  # the main rank alone writes


def test_ranks_share_the_data_without_overlap(clip):
    whole = next(training_batches(run_config(clip, True, 8), 16))
    halves = [next(training_batches(run_config(clip, True, 4), 16, rank, 2)) for rank in range(2)]
    for rank, half in enumerate(halves):
        assert half.captions == list(islice(whole.captions, rank, None, 2))
        assert torch.equal(half.pixels, whole.pixels[rank::2])


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork_ranks()
    rank_main(Path(sys.argv[1]), Path(sys.argv[2]))
