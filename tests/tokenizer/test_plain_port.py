"""The plain port that speed is compared with: it computes what the package does, so the two are worth comparing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seedtok import SeedTokenizer
from seedtok.core.files import assign_strictly
from seedtok.core.hub import shipped
from seedtok.mini.world.scenes import VARIED, unique_scenes
from seedtok.mini.world.source import to_batch
from seedtok.weights.official import Heads, read_official


@pytest.fixture
def benchmarks(monkeypatch) -> None:
    """Makes the modules of benchmarks/ importable."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


@torch.no_grad()
def assert_equal(seed: SeedTokenizer, pixels: torch.Tensor) -> None:
    from plain_port import PlainPort

    port = PlainPort.of(seed)
    ours, theirs = seed.causal_embeddings(pixels), port.causal_embeddings(pixels)
    assert (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()
    codes = seed.encode_pixels(pixels)
    assert torch.equal(port(pixels), codes)
    assert len(codes.unique()) > len(pixels)  # they say something of the images


def with_stem(folder: Path, pre_norm: bool) -> SeedTokenizer:
    """A random tokenizer of the sizes of another, with a stem, positions on its features and an order of its codes."""
    config = SeedTokenizer.from_pretrained(folder).config
    vision = replace(config.embedder.vision, stem=(8, 16, 16, 24), pre_norm=pre_norm)
    embedder = replace(config.embedder, vision=vision, positions=True)
    torch.manual_seed(0)
    seed = SeedTokenizer(replace(config, embedder=embedder, code_order=tuple(reversed(range(32)))))
    for name, tensor in seed.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return seed.eval()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_codes_of_a_tiny_model_with_a_stem(benchmarks, tiny_tokenizer, pre_norm):
    assert_equal(with_stem(tiny_tokenizer, pre_norm), torch.randn(3, 3, 32, 32))


def test_codes_of_a_tiny_model_without_one(benchmarks, tiny_tokenizer):
    assert_equal(SeedTokenizer.from_pretrained(tiny_tokenizer), torch.randn(3, 3, 32, 32))


@pytest.mark.skipif(
    not (shipped("tokenizer") / "model.safetensors").exists(), reason="the mini weights are not in this checkout"
)
def test_codes_of_scenes_by_the_shipped_weights(benchmarks):
    seed = SeedTokenizer.from_pretrained("mini")
    assert_equal(seed, seed.pixels(to_batch(unique_scenes("test", 4, world=VARIED), 128).pixels))


@torch.no_grad()
def test_published_weights_give_the_published_numbers(benchmarks, reference):
    from plain_port import PlainPort

    config, state = read_official(reference.checkpoint("v1"), Heads(vision=4, qformer=6, decoder=12))
    seed = SeedTokenizer(config)
    assign_strictly(seed, state, "the reference", {"": torch.float32})
    port, expected = PlainPort.of(seed), reference["v1/taps/Qformer.bert"]
    assert (port.causal_embeddings(reference["image"]) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(port(reference["image"]), reference["v1/codes"])


def test_it_shares_no_layer_and_nearly_all_memory(benchmarks, tiny_tokenizer):
    from plain_port import PlainPort

    seed = SeedTokenizer.from_pretrained(tiny_tokenizer)
    port = PlainPort.of(seed)
    assert all(type(module).__module__.startswith(("plain_port", "torch.nn")) for module in port.modules())
    owned = {tensor.untyped_storage().data_ptr() for tensor in seed.state_dict().values()}
    assert all(tensor.untyped_storage().data_ptr() in owned for tensor in port.state_dict().values())
