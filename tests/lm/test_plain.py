"""The plain language model: a stock causal LM of transformers with the logits of the joint model."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from seedtok.core.errors import CheckpointError
from seedtok.lm.adapter import AdapterConfig, VisualAdapter
from seedtok.lm.logit_map import is_close
from seedtok.lm.model import JointLM
from seedtok.lm.plain import constant_direction, fold
from seedtok.lm.seed_lm import SeedLM
from tiny_lms import FAMILIES, SIZES, WIDE, text_tokenizer, with_random_lora

OTHERS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, WIDE),
    "mistral": (MistralForCausalLM, MistralConfig, WIDE),
    "cohere": (CohereForCausalLM, CohereConfig, {**WIDE, "logit_scale": 0.25}),
    "granite": (GraniteForCausalLM, GraniteConfig, {**WIDE, "logits_scaling": 6.0, "embedding_multiplier": 3.0}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {**WIDE, "query_pre_attn_scalar": 16, "sliding_window": 160}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 160}),
    "phi": (PhiForCausalLM, PhiConfig, {**SIZES, "intermediate_size": 64}),  # its own head has a bias
}
ROWS = 304  # of text; the tokenizer has 300 tokens, or 301 where transformers adds one for a family
WITH_DIRECTION = ("opt", "gpt2", "phi")  # whose last layer is a LayerNorm with a bias


def built(family: str, seed, folder: Path) -> SeedLM:
    """A SEED LM of a family with random weights everywhere, biases and norms too."""
    torch.manual_seed(0)
    kind, config, sizes = (FAMILIES | OTHERS)[family]
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": ROWS}
    lm = kind(config(**sizes, **ids, initializer_range=0.1))
    for module in lm.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=float(name == "weight"), std=0.3)
    lm.save_pretrained(folder)
    text_tokenizer().save_pretrained(str(folder))
    model = with_random_lora(SeedLM.build(folder, seed))
    nn.init.normal_(model.joint.adapter.input_projection.bias, std=0.1)
    return model


def give_bias(model: JointLM) -> None:
    """Gives the visual head a bias."""
    old = model.adapter
    model.adapter = VisualAdapter(AdapterConfig(**(vars(old.config) | {"head_bias": True})))
    model.adapter.load_state_dict(old.state_dict() | {"visual_head.bias": torch.randn(old.config.codes + 2)})


@torch.no_grad()
def logits_of(model: JointLM) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of text and of an image, and the logits after each of them."""
    ids = torch.tensor([model.sequence(["a fox", torch.arange(32) * 250, "on a red background"])])
    return ids, model.logits(model.states(model.embed(ids)))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES | OTHERS)
def test_its_logits_are_those_of_the_joint_model(family, seed, tmp_path):
    model = built(family, seed, tmp_path / "base")
    model.joint.adapter.add_neighbour_head()
    nn.init.normal_(model.joint.adapter.neighbour_head.weight, std=0.05)
    model.save_plain(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    ids, expected = logits_of(model.joint)
    assert is_close(plain(ids).logits, expected, 1e-5)
    assert not plain.config.tie_word_embeddings
    assert plain.get_input_embeddings().weight.shape[0] == plain.config.vocab_size == ROWS + 8192 + 2
    assert (plain.get_output_embeddings().bias is None) == (family != "phi")
    assert not any("lora" in name for name, _ in plain.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES | OTHERS)
def test_a_bias_of_the_visual_head_folds_where_the_last_norm_allows_it(family, seed, tmp_path):
    model = built(family, seed, tmp_path / "base").joint
    give_bias(model)
    direction = constant_direction(model)
    assert (direction is not None) == (family in WITH_DIRECTION)
    if direction is None:
        with pytest.raises(CheckpointError, match=r"the visual head has a bias, and .* train one without"):
            fold(model)
        return
    ids, expected = logits_of(model)
    states = model.states(model.embed(ids)).double()
    torch.testing.assert_close(states @ direction, torch.ones_like(states[..., 0]), rtol=0, atol=1e-4)
    assert is_close(fold(model)(ids).logits, expected, 1e-5)


@torch.no_grad()
def test_a_norm_without_a_bias_has_no_direction(bases, seed):
    """As a new one: its bias is 0."""
    assert constant_direction(SeedLM.build(bases["opt"], seed).joint) is None


@torch.no_grad()
@pytest.mark.parametrize("seed_lm", ["llama", "opt"], indirect=True)
def test_the_joint_model_stays_as_it_was(seed_lm):
    names, (_, expected) = set(seed_lm.state_dict()), logits_of(seed_lm.joint)
    fold(seed_lm.joint)
    assert torch.equal(logits_of(seed_lm.joint)[1], expected)
    assert set(seed_lm.state_dict()) == names
    assert seed_lm.joint.lm.config.vocab_size == len(text_tokenizer())
    assert not hasattr(seed_lm.joint.lm.config, "seedtok")


class Prefixed(LlamaForCausalLM):
    """A model that does something to ids that its embedding layer does not show."""

    def forward(self, input_ids=None, inputs_embeds=None, **options):
        if input_ids is not None:
            inputs_embeds = self.model.embed_tokens(input_ids) * 2
        return super().forward(inputs_embeds=inputs_embeds, **options)


def test_a_model_whose_logits_would_change_is_refused(seed, bases):
    model = SeedLM.build(bases["llama"], seed).joint
    model.lm.__class__ = Prefixed
    with pytest.raises(CheckpointError, match="Prefixed does not fold"):
        fold(model)


# ------------------------------------------------------------ its tokenizer


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_its_tokenizer_has_the_visual_tokens(seed_lm, tmp_path):
    seed_lm.save_plain(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    vocabulary = seed_lm.vocabulary
    assert len(tokenizer) == vocabulary.size
    image = "<img>" + "".join(f"<img_{code:05d}>" for code in range(0, 8192, 256)) + "</img>"
    ids = tokenizer(f"a fox{image} on a red", add_special_tokens=False).input_ids
    codes = torch.arange(0, 8192, 256)
    joint = seed_lm.joint
    assert ids == [*joint.text_ids("a fox"), *joint.image_ids(codes), *joint.text_ids(" on a red")]
    assert tokenizer.decode(ids) == f"a fox{image} on a red"


def test_rows_without_a_token_are_filled(seed, tmp_path):
    """Published LMs often have more rows than their tokenizer has tokens; with fewer there is no place for codes."""
    model = built("llama", seed, tmp_path / "base")
    model.save_plain(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer.convert_tokens_to_ids("<img_00000>") == ROWS
    assert tokenizer.convert_ids_to_tokens(ROWS - 1) == f"<unused_{ROWS - 1:05d}>"
    model.joint.text_tokenizer.add_tokens([f"more{i}" for i in range(20)])
    with pytest.raises(CheckpointError, match=f"tokens, and the LM rows for {ROWS}"):
        model.save_plain(tmp_path / "plain")


# ------------------------------------------------------------ as a SEED LM


@pytest.mark.slow
def test_it_loads_as_a_seed_lm(seed_lm, seed, tmp_path):
    """The same captions, answers, codes and mixtures; and it can be saved again."""
    seed_lm.save_plain(tmp_path / "plain")
    assert str(tmp_path) not in (tmp_path / "plain" / "config.json").read_text()
    plain = SeedLM.from_pretrained(tmp_path / "plain", seed=seed)
    assert plain.vocabulary == seed_lm.vocabulary
    assert plain.joint.adapter is None
    _, expected = logits_of(seed_lm.joint)
    assert is_close(logits_of(plain.joint)[1], expected, 1e-5)
    codes = torch.arange(64).view(2, 32)
    for beams in (1, 3):
        assert plain.caption(codes, beams, max_new_tokens=6) == seed_lm.caption(codes, beams, max_new_tokens=6)
    assert torch.equal(plain.draw_codes(["a fox", "a cake on"]), seed_lm.draw_codes(["a fox", "a cake on"]))
    assert torch.equal(plain.draw_codes("a fox"), seed_lm.draw_codes("a fox"))
    plain.save_pretrained(tmp_path / "again")
    again = SeedLM.from_pretrained(tmp_path / "again", seed=seed)
    assert torch.equal(logits_of(again.joint)[1], logits_of(plain.joint)[1])


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_layout_that_cannot_be_is_refused(seed_lm, seed, tmp_path):
    seed_lm.save_plain(tmp_path / "plain")
    path = tmp_path / "plain" / "config.json"
    record = json.loads(path.read_text())
    layout = record["seedtok"]["layout"]
    for change, match in (
        ({"layout": layout | {"begin": "2"}}, 'begin is "2"; expected an integer'),
        ({"layout": layout | {"codes": 0}}, "different ids for codes"),
        ({"layout": {"codes": 8192}}, "not a configuration of visual ids in .*: first_code is missing"),
        ({"layout": layout | {"end": 10_000}}, r"has \d+ embeddings; its visual ids go up to 10000"),
        ({"codebook": "0"}, "another codebook"),
    ):
        path.write_text(json.dumps(record | {"seedtok": record["seedtok"] | change}))
        with pytest.raises(CheckpointError, match=match):
            SeedLM.from_pretrained(tmp_path / "plain", seed=seed)


@torch.no_grad()
@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_another_layout_of_ids_is_the_same_model(seed_lm, seed, tmp_path):
    """Boundaries before the codes: ids change, what is captioned and drawn does not."""
    plain = fold(seed_lm.joint)
    old = seed_lm.vocabulary
    order = torch.tensor([*range(old.text), old.begin, old.end, *range(old.first_code, old.begin)])
    for layer in (plain.get_input_embeddings(), plain.get_output_embeddings()):
        layer.weight.copy_(layer.weight[order].clone())
    layout = type(old)(first_code=old.text + 2, begin=old.text, end=old.text + 1)
    moved = SeedLM(JointLM(plain, seed_lm.joint.text_tokenizer, layout), seed)
    codes = torch.arange(64).view(2, 32)
    for beams in (1, 3):
        assert moved.caption(codes, beams, max_new_tokens=6) == seed_lm.caption(codes, beams, max_new_tokens=6)
    assert torch.equal(moved.draw_codes("a fox"), seed_lm.draw_codes("a fox"))
    assert [type(part) for part in moved.generate(["a fox"], max_new_tokens=3)] == [
        type(part) for part in seed_lm.generate(["a fox"], max_new_tokens=3)
    ]


# ------------------------------------------------------------ the shipped model


@torch.no_grad()
def test_the_shipped_model_folds(tmp_path):
    """transformers alone captions and draws by it as `SeedLM` does."""
    model = SeedLM.from_pretrained()
    model.save_plain(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    joint, vocabulary = model.joint, model.vocabulary
    ids, expected = logits_of(joint)
    assert is_close(plain(ids).logits, expected, 1e-5)

    codes = torch.stack([model.draw_codes(p)[0] for p in ("a fox on a red background", "two birds", "a cake")])
    for row, caption in zip(codes, model.caption(codes, num_beams=1), strict=True):
        image = "<img>" + "".join(f"<img_{code:05d}>" for code in row.tolist()) + "</img>"
        prompt = tokenizer(f"{tokenizer.bos_token}{image}A photo of", return_tensors="pt", add_special_tokens=False)
        assert prompt.input_ids[0].tolist() == joint.sequence([row, "A photo of"])
        out = plain.generate(**prompt, do_sample=False, min_new_tokens=8, max_new_tokens=30)
        found = tokenizer.decode(out[0, prompt.input_ids.shape[1] :], skip_special_tokens=True)
        assert found.strip() == caption

    prompt = tokenizer(
        f"{tokenizer.bos_token}Generate an image a cake<img>", return_tensors="pt", add_special_tokens=False
    )
    out = plain.generate(
        **prompt, do_sample=False, max_new_tokens=32,
        prefix_allowed_tokens_fn=lambda *_: list(range(vocabulary.first_code, vocabulary.begin)),
    )  # fmt: skip
    assert torch.equal(out[0, prompt.input_ids.shape[1] :] - vocabulary.first_code, codes[2])
