"""The base of SEED-OPT, any causal LM of transformers, frozen: loading, embedding and head, and its fingerprint."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.core.extras import missing_extra
from seedtok.core.files import read_json, tensor_shapes
from seedtok.core.hub import cache_only, local_folder
from seedtok.core.kinds import AUTO
from seedtok.lm.native import find_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HASHED_VALUES = 4096  # how many values of the word embeddings a fingerprint hashes
STORED_VALUES = 64  # how many of those it also holds as numbers


def loading_errors() -> tuple[type[Exception], ...]:
    """What transformers and peft raise for checkpoints that are missing or broken."""
    from huggingface_hub.errors import StrictDataclassError

    own = OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError
    return *own, SafetensorError, StrictDataclassError


@dataclass(frozen=True)
class Quantization:
    """A quantization configuration of transformers, and the device on which the weights are quantized."""

    config: Any
    device: torch.device


@dataclass(frozen=True)
class Weights:
    """How the weights of a language model are held: their dtype, and how the matrices of its layers are quantized."""

    dtype: torch.dtype = torch.float32
    quantization: Quantization | None = None


def quantization(chosen: Any, dtype: torch.dtype, device: torch.device) -> Quantization | None:
    """What a user chose, for `Weights`: "8bit" or "4bit" of bitsandbytes, or any configuration of transformers.

    Of 4 bits it is NF4, computed in `dtype`. Raises ConfigError for another name, and where bitsandbytes is missing.
    """
    if chosen is None:
        return None
    if not isinstance(chosen, str):
        return Quantization(chosen, device)
    from transformers import BitsAndBytesConfig

    options = {
        "8bit": {"load_in_8bit": True},
        "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }
    if chosen not in options:
        raise ConfigError(f"unknown quantization {chosen!r}: expected {' or '.join(options)}")
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]  transformers would say less
    except ImportError as error:
        raise missing_extra(error) or error from None
    return Quantization(BitsAndBytesConfig(**options[chosen]), device)


def load_base(
    source: str, dtype: torch.dtype, quantized: Quantization | None = None, words: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal LM, frozen, and its tokenizer; `source` is as `hub.locate` returns it, "mini" the shipped OPT.

    Of a folder for transformers' Auto classes it is the LM in it.
    `words` is the folder of the tokenizer, where it is not the LM's. Code that comes with the weights is not run.
    Raises CheckpointError where there is no such LM, or it lacks tensors; ConfigError where what quantizes it is not
    installed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = local_folder(source, "opt")
    name, cached = (str(folder), True) if folder else (source, cache_only(source, "config.json"))
    try:
        held: dict[str, Any] = {"dtype": dtype}
        if folder is not None:
            record = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
            if record.get("model_type") == AUTO:
                config = AutoConfig.for_model(**record["text_config"])
                held |= {"config": config, "key_mapping": {r"^language_model\.": ""}}
            else:
                config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=True)
            _check_depth(folder, config.get_text_config().num_hidden_layers)
        if quantized is not None:
            held |= {"quantization_config": quantized.config, "device_map": {"": quantized.device}}
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, local_files_only=cached, output_loading_info=True, **held
        )
        lm, report = loaded
        text_tokenizer = _text_tokenizer(name, cached) if words is None else _text_tokenizer(str(words), True)
    except CheckpointError:
        raise
    except ImportError as error:
        if quantized is None:
            raise
        raise ConfigError(f"cannot quantize {name}: {' '.join(str(error).split())}") from None
    except loading_errors() as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "trust_remote_code" in str(error):
            reason = "it needs Python code of its own (auto_map), which is not run"
        elif isinstance(error, UnpicklingError):
            reason = "its pickled weights hold more than tensors, or are broken; only tensors are read"
        elif "ignore_mismatched_sizes" in str(error):
            reason = "its tensors are not of the sizes in its config.json"
        elif "backend tokenizer" in str(error):
            reason = "it has no text tokenizer: its files, such as tokenizer.model, have to be in the same folder"
        elif "tiktoken" in str(error):  # what transformers tries where one of these is not installed
            reason = "its tokenizer.model takes sentencepiece and protobuf: pip install 'seedtok[llama]'"
        raise CheckpointError(f"cannot load a language model from {name}: {reason}") from None
    if report["missing_keys"]:
        raise CheckpointError(
            f"cannot load a language model from {name}: it lacks tensor {min(report['missing_keys'])}"
        )
    return lm.eval().requires_grad_(False), text_tokenizer


def _text_tokenizer(name: str, cached: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of an LM; of one over codes as it was trained, which its files say in `legacy`, or by their age.

    Before transformers 5, which leaves this out of the files that it writes, that was the default. Before 4.34, which
    began to write how tokens were added (`added_tokens_decoder`), these took the spaces on both sides of them away.
    """
    from tokenizers import AddedToken
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    tokenizer: Any = load_tokenizer(name, cached)
    if not is_llamas(tokenizer) or find_layout(tokenizer) is None:
        return tokenizer
    config = get_tokenizer_config(name, local_files_only=cached)
    if config.get("legacy", True):
        tokenizer = load_tokenizer(name, cached, spaced=True)
    if "added_tokens_decoder" not in config and not (Path(name) / "tokenizer.json").is_file():
        names = tokenizer.get_added_vocab().keys() - set(tokenizer.all_special_tokens)
        tokenizer.add_tokens([AddedToken(name, lstrip=True, rstrip=True, normalized=False) for name in sorted(names)])
    return tokenizer


def is_llamas(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is of the kind that can be `spaced`."""
    from transformers import LlamaTokenizer

    return isinstance(tokenizer, LlamaTokenizer)


def load_tokenizer(name: str, cached: bool, spaced: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, whose own code is not run.

    With `spaced`, a Llama's sets a space before the words after an added token, and says so when it is saved; a text
    with names of codes then has the ids of its parts, one by one.
    """
    from transformers import AutoTokenizer

    options = {"legacy": True} if spaced else {}
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=cached, **options)
    tokenizer.init_kwargs |= options
    return tokenizer


def _check_depth(folder: Path, layers: Any) -> None:
    """Raises CheckpointError where a config asks for more layers than there are tensors, before anything is built."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        count = len(read_json(index).get("weight_map", ()))
    elif single.is_file():
        count = len(tensor_shapes(single))
    else:
        return
    if not isinstance(layers, int) or not 1 <= layers <= count:
        raise CheckpointError(f"{folder / 'config.json'} asks for {layers} layers, but there are {count} tensors")


def word_embedding(lm: PreTrainedModel) -> nn.Embedding:
    """The layer that embeds the LM's input ids."""
    return cast(nn.Embedding, lm.get_input_embeddings())


def output_head(lm: PreTrainedModel) -> nn.Linear:
    """The layer that makes logits of the LM's last states."""
    return cast(nn.Linear, lm.get_output_embeddings())


@functools.cache
def cache_argument(model: type[nn.Module]) -> str:
    """The name of the KV cache in a model's `forward`: "cache" since transformers 5.24, "past_key_values" before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The id that begins every sequence, where the LM has one."""
    first = cast(int | None, tokenizer.bos_token_id)
    return [] if first is None else [first]


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a text."""
    return cast(int, tokenizer.eos_token_id)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that pads a row: any would do, since it is masked; end-of-text where the tokenizer has none for it."""
    return cast(int, tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


# ------------------------------------------------------------ fingerprints


def fingerprint(lm: PreTrainedModel) -> dict[str, Any]:
    """What tells one base from another: hashes of its sizes and of some word embeddings, evenly spaced.

    The embeddings are rounded to bfloat16 first, so that one base has one fingerprint in float32 and in bfloat16. In
    float16 that rounding may differ in the last bit; for that case some of the values are stored as numbers.
    """
    weight, config = word_embedding(lm).weight.detach(), lm.config.get_text_config()
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = [*weight.shape, *(getattr(config, name, None) for name in names)]
    flat = weight.flatten()
    offsets = torch.arange(HASHED_VALUES, device=flat.device) * (len(flat) - 1) // (HASHED_VALUES - 1)
    values = flat[offsets].to(torch.bfloat16).float().cpu() + 0.0  # -0.0 becomes 0.0
    return {
        "config": hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16],
        "embedding": hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest()[:16],
        "values": values[:: HASHED_VALUES // STORED_VALUES].tolist(),
    }


def is_base_of(record: dict[str, Any], lm: PreTrainedModel) -> bool:
    """Whether an LM is the base that the config.json of a SEED LM was trained on."""
    given = record.get("base_fingerprint")
    if not isinstance(given, dict):
        return _is_close(record.get("base_sample"), _evenly_spaced(word_embedding(lm).weight))
    own = fingerprint(lm)
    if given.get("config") != own["config"]:
        return False
    rounded = lm.dtype == torch.float16 and _is_close(given.get("values"), own["values"])
    return rounded or given.get("embedding") == own["embedding"]


def _evenly_spaced(weight: Tensor) -> list[float]:
    """The values that stand for the base in checkpoints older than the fingerprint."""
    flat = weight.detach().flatten()
    offsets = torch.linspace(0, len(flat) - 1, STORED_VALUES, device=flat.device).long().clamp(max=len(flat) - 1)
    return flat[offsets].float().tolist()


def _is_close(one: Any, other: list[float]) -> bool:
    """Whether two lists of values are equal, to the precision of bfloat16."""
    if not isinstance(one, list) or len(one) != len(other) or not all(isinstance(x, int | float) for x in one):
        return False
    a, b = torch.tensor(one), torch.tensor(other)
    return bool(torch.allclose(a, b, rtol=0.01, atol=1e-3 * float(b.abs().max())))
