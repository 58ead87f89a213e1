"""Tiny random language models of five families, with a tokenizer, as folders of transformers."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from seedtok.lm.model import JointLM
from seedtok.lm.native import TokenNames
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.seed import SeedTokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 160}
WIDE = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16}
FAMILIES = {
    "opt": (OPTForCausalLM, OPTConfig, {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.1}),
    "opt-350m": (OPTForCausalLM, OPTConfig, {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 16, "dropout": 0.1}),
    "llama": (LlamaForCausalLM, LlamaConfig, WIDE),
    "qwen": (Qwen3ForCausalLM, Qwen3Config, {**WIDE, "tie_word_embeddings": True}),
    "gemma": (Gemma2ForCausalLM, Gemma2Config, {**WIDE, "query_pre_attn_scalar": 16, "sliding_window": 160}),
}


def text_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(
        ["a photo of a fox on a red background", "Generate an image Question: Short answer."], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def native(folder: Path, names: TokenNames, codes: int, boundaries_first: bool) -> Path:
    """A tiny random Llama whose tokenizer names the codes, in the order of the published models."""
    torch.manual_seed(0)
    tokenizer = text_tokenizer()
    boundaries = [names.begin, names.end]
    tokens = [names.code.format(i) for i in range(codes)]
    tokens = [*boundaries, "<other>", *tokens] if boundaries_first else [*tokens, *boundaries]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": len(tokenizer) + 3}
    LlamaForCausalLM(LlamaConfig(**WIDE, **ids, initializer_range=0.3)).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def save_llama_of_blocks(folder: Path) -> Path:
    """A Llama whose matrices have whole blocks of 64 values, which can be held in 4 bits."""
    torch.manual_seed(0)
    tokenizer = text_tokenizer()
    sizes = {**WIDE, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": len(tokenizer)}
    LlamaForCausalLM(LlamaConfig(**sizes, **ids, initializer_range=0.2)).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders, tokenizer = {}, text_tokenizer()
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": len(tokenizer)}
    for name, (kind, config, sizes) in FAMILIES.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp("bases") / name
        kind(config(**sizes, **ids, initializer_range=0.3)).save_pretrained(folders[name])
        tokenizer.save_pretrained(str(folders[name]))
    return folders


@pytest.fixture(scope="session")
def seed(tiny_tokenizer: Path) -> SeedTokenizer:
    return SeedTokenizer.from_pretrained(tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_lm(bases: dict[str, Path], seed: SeedTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a random SEED LM on the tiny OPT, with LoRA that has an effect."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("lm") / "lm"
    with_random_lora(SeedLM.build(bases["opt"], seed)).save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def seed_lm(request: pytest.FixtureRequest, bases: dict[str, Path], seed: SeedTokenizer) -> SeedLM:
    """A SEED LM of each family, with LoRA that has an effect."""
    torch.manual_seed(1)
    return with_random_lora(SeedLM.build(bases[request.param], seed))


@pytest.fixture
def model(seed_lm: SeedLM) -> JointLM:
    """The joint language model of `seed_lm`."""
    return seed_lm.joint


def with_random_lora(seed_lm: SeedLM) -> SeedLM:
    """LoRA starts without effect: gives it one."""
    for name, parameter in seed_lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return seed_lm
