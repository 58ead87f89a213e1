"""The authors' checkpoints: read at a reduced size with their numbers, written at full size with their names."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.core.files import assign_strictly
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.weights.official import Heads, read_official, to_official

HEADS = Heads(vision=4, qformer=6, decoder=12)


def loaded(tensors: dict[str, Tensor]) -> SeedTokenizer:
    config, state = read_official(tensors, HEADS)
    with torch.device("meta"):
        model = SeedTokenizer(config)
    assign_strictly(model, state, "the reference", {"": torch.float32})
    return model.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    ("section", "target"), [("v1", "gen_emb"), ("v2", "image_embed"), ("v2_qformer_image", "image_embed")]
)
def test_published_weights_give_the_published_numbers(reference, section, target):
    model = loaded(reference.checkpoint(section))
    causal = reference[f"{section}/taps/Qformer.bert"]
    if section not in reference.borrowed:  # its ViT and Q-Former are its own
        close(model.causal_embeddings(reference["image"]), causal)
    codes = model.quantize(causal).codes
    assert torch.equal(codes, reference[f"{section}/codes"])
    generated = model.generation_embeddings(model.lookup(codes))
    theirs = reference[f"{section}/{target}"]
    close(generated.view_as(theirs), theirs)
    if section not in reference.borrowed:
        output = model(reference["image"])
        close(output.causal_embeddings, causal)
        assert torch.equal(output.quantized.codes, codes)
        close(output.generation_embeddings.view_as(theirs), theirs)


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", "_text"])
def test_the_way_to_text_features_beside_the_one_that_draws_is_left_out(reference, suffix):
    """The successor's published file has both, and the head of image-text matching."""
    tensors = reference.checkpoint("v2")
    expected = loaded(dict(tensors))
    reverse = {k: v for k, v in reference.checkpoint("v1").items() if k.startswith(("Reverse_Qformer.", "reverse_"))}
    tensors |= {
        k.replace("Reverse_Qformer", f"Reverse_Qformer{suffix}").replace("tokens", f"tokens{suffix}"): v
        for k, v in reverse.items()
    }
    tensors |= {k.replace("_image", "_text"): v for k, v in tensors.items() if k.startswith(("blocks_image", "pos_e"))}
    tensors |= {"distill_text_proj.weight": torch.ones(3, 3), "itm_head.bias": torch.ones(2)}
    model = loaded(tensors)
    assert model.config == expected.config
    assert model.config.embedder.vision.interpolation == "bilinear"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_there_and_back_again(reference):
    tensors = reference.checkpoint("v1")
    model = loaded(dict(tensors))
    again = to_official(model.config, model.state_dict())
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("encode_task_layer.2.bias"), "lacks tensor 'encode_task_layer.2.bias'"),
        (lambda t: t.update(extra=torch.zeros(1)), "has an unknown tensor 'extra'"),
        (lambda t: t.update({"ln_vision.bias": torch.zeros(3)}), "ln_vision.bias"),
        (lambda t: t.pop("quantize.embedding.weight"), "quantize.embedding.weight"),
    ],
)
def test_what_is_not_right_is_named(reference, damage, words):
    tensors = reference.checkpoint("v1")
    damage(tensors)
    with pytest.raises(CheckpointError, match=words):
        loaded(tensors)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("codebook", {"normalize": True}),
        ("embedder.qformer", {"causal": False}),
        ("embedder.qformer", {"cross_attention_every": 1}),
        ("embedder.vision", {"layer_norm_eps": 1e-5}),
        ("embedder.vision", {"patch_bias": False}),
        ("embedder.vision", {"activation": "quick_gelu"}),
        ("embedder", {"positions": True}),
        ("", {"code_order": (1, 0, *range(2, 32))}),
    ],
)
def test_what_no_tensor_tells_is_not_exported_as_something_else(part, change):
    def changed(config, path):
        if not path:
            return dataclasses.replace(config, **change)
        return dataclasses.replace(config, **{path[0]: changed(getattr(config, path[0]), path[1:])})

    with pytest.raises(CheckpointError, match=rf"no place for {part}.*{next(iter(change))} = "):
        to_official(changed(SeedConfig(), part.split(".") if part else []), {})


def listed() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint."""
    found = {}
    for line in (Path(__file__).parent / "v1_keys.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, shape, *where = line.split("\t")
        numbers = [""]
        if where:
            first, _, last = where[0].removeprefix("i=").partition("..")
            numbers = [str(i) for i in range(int(first), int(last) + 1)] if last else first.split(",")
        sizes = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
        found |= {name.replace("{i}", number): sizes for number in numbers}
    return found


def test_ours_at_full_size_has_the_917_published_names_and_shapes():
    qformer = dataclasses.replace(QFormerConfig(), vocab_size=None)
    config = SeedConfig(embedder=EmbedderConfig(qformer=qformer, projection=None), code_decoder=None)
    with torch.device("meta"):
        state = SeedTokenizer(config).state_dict()
    ours = {name: tuple(tensor.shape) for name, tensor in to_official(config, state).items()}
    assert len(ours) == 917
    assert ours == listed()
    with_text = SeedConfig()  # what we train has more, for which there is no place
    with torch.device("meta"):
        state = SeedTokenizer(with_text).state_dict()
    assert to_official(with_text, state).keys() == ours.keys()


def test_published_sizes_are_read_off_the_shapes():
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in listed().items()}
    config, state = read_official(tensors)
    with torch.device("meta"):
        model = SeedTokenizer(config)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in model.state_dict().items()}
    defaults = json.loads(json.dumps(dataclasses.asdict(SeedConfig())))
    ours = json.loads(json.dumps(dataclasses.asdict(config)))
    assert ours["embedder"]["vision"] == defaults["embedder"]["vision"]
    assert ours["reverse_qformer"] == defaults["reverse_qformer"]
    assert ours["text_decoder"] == defaults["code_decoder"]
