"""The plain language model: what a `JointLM` folds into for inference, a stock causal LM of transformers.

Its embedding and its head have rows for the codes, begin-of-image and end-of-image after those of the text; LoRA is
added to the weights; there is no adapter left. Any code that takes a causal LM of transformers takes it.

**Embeddings.** The FC layer of a code's codebook vector is a row that does not change: it is computed once. Where the
LM's embedding layer multiplies its rows (Gemma 3), visual rows are divided by that factor.

**Head.** The LM's logits are cap(s * W (a h)) for its last states h (`LogitMap`), and the visual head's are
cap(V h + c). So the visual rows are V / (s a), if c = 0. Embedding and head are not tied: a visual code is embedded and
predicted by different vectors.

**Bias.** Heads of causal LMs have no bias, and servers know none. Where the last norm of the LM is a LayerNorm with a
bias, one folds into the weight. Its output is h = w * n + b, with n = (x - mean(x)) / std(x), so that the components of
n sum to 0 whatever x is. For v = t / w (elementwise),

    <v, h> = t sum(n) + t sum(b / w) = t sum(b / w),

which is 1 for all h if t = 1 / sum(b / w). Then V h + c = (V + c v^T) h. There is no other such v: n spans all vectors
that sum to 0. An RMSNorm has no constant component, nor has a LayerNorm without bias, or one that a projection follows
(OPT-350m): a visual head with a bias does not fold there, and is refused. Therefore new adapters have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.core.errors import CheckpointError
from seedtok.lm.adapter import VisualAdapter, merged_copy
from seedtok.lm.base import is_llamas, load_tokenizer, output_head, word_embedding
from seedtok.lm.logit_map import is_close
from seedtok.lm.model import JointLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BEGIN, END, CODE = "<img>", "</img>", "<img_{:05d}>"  # names of the visual tokens, as SEED-LLaMA's
LARGEST_DIRECTION = 1e3  # norm of v beyond which rounding of the states would be as large as the bias


@torch.no_grad()
def fold(model: JointLM) -> PreTrainedModel:
    """The plain language model of a joint one, which stays as it is; takes the memory of a second LM.

    Its logits are those of the joint model, id by id. Raises CheckpointError where the visual head has a bias that does
    not fold, or the LM does anything to its embeddings or logits that is not known here.
    """
    lm = merged_copy(model.network)
    if model.adapter is not None:
        rows = _visual_head_rows(model, model.adapter)
        _append_rows(lm, model.adapter.embedding_rows() / _embedding_scale(lm), rows)
        _check(model, lm)
    return lm.eval().requires_grad_(False)


def _visual_head_rows(model: JointLM, adapter: VisualAdapter) -> Float[Tensor, "rows hidden"]:
    """The rows of the LM's own head that give the logits of the visual head."""
    rows = adapter.head_rows().cpu().double()  # some devices have no float64
    if adapter.config.head_bias and bool(adapter.visual_head.bias.any()):
        direction = constant_direction(model)
        if direction is None:
            raise CheckpointError(
                f"the visual head has a bias, and the states of {type(model.lm).__name__} have no constant component "
                "to fold it into: train one without (head_bias=False)"
            )
        rows += adapter.visual_head.bias.cpu().double()[:, None] * direction
    return rows / (model.logit_map.scale * model.logit_map.state_scale)


@torch.no_grad()
def constant_direction(model: JointLM) -> Float[Tensor, " hidden"] | None:
    """The vector v, in float64, with <v, h> = 1 for all of a model's last states h; None where there is none.

    That is 1 / w, scaled, where the last norm is a LayerNorm of weight w with a bias. Whether a LayerNorm is the last
    layer is found by a forward: its output is then the model's last states.
    """
    outputs: list[tuple[nn.LayerNorm, Tensor]] = []

    def keep(norm: nn.Module, _: Any, output: Tensor) -> None:
        outputs.append((cast(nn.LayerNorm, norm), output))

    norms = [module for module in model.lm.base_model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(keep) for norm in norms]
    try:
        ids = torch.arange(min(32, model.vocabulary.text), device=model.device)[None]
        states = model.states(model.embed(ids))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, output in outputs:
        if norm.bias is not None and output.shape == states.shape and torch.equal(output, states):
            weight, bias = norm.weight.cpu().double(), norm.bias.cpu().double()
            direction = 1 / weight / (bias / weight).sum()
            return direction if bool(direction.norm() < LARGEST_DIRECTION) else None  # also None for infinity and NaN
    return None


def _embedding_scale(lm: PreTrainedModel) -> float:
    """What the embedding layer multiplies its rows by."""
    embedding = word_embedding(lm)
    ids = torch.arange(min(64, embedding.num_embeddings), device=embedding.weight.device)
    rows, out = embedding.weight[ids].cpu().double(), embedding(ids).cpu().double()
    scale = float((rows * out).sum() / rows.square().sum())
    return 1.0 if abs(scale - 1) < 1e-6 else scale


def _append_rows(lm: PreTrainedModel, embeddings: Tensor, head_rows: Tensor) -> None:
    """Appends rows to an LM's embedding and head, in place; both have their own weights afterwards."""
    text = word_embedding(lm).num_embeddings
    head = output_head(lm)
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (lm.config, lm.config.get_text_config()):
        config.tie_word_embeddings = False
    lm.resize_token_embeddings(text + len(embeddings), mean_resizing=False)
    word_embedding(lm).weight[text:] = embeddings.to(word_embedding(lm).weight)
    output_head(lm).weight[text:] = head_rows.to(output_head(lm).weight)
    if output_head(lm).bias is not None:
        output_head(lm).bias[text:] = 0


def _check(model: JointLM, lm: PreTrainedModel) -> None:
    """Raises CheckpointError unless the logits of a plain LM are those of the joint model, on some text and codes."""
    vocabulary = model.vocabulary
    ids = torch.arange(0, vocabulary.size, max(1, vocabulary.size // 24), device=model.device)[None]
    was_training = model.training
    model.eval()
    expected = model.logits(model.states(model.embed(ids))).float()
    model.train(was_training)
    found = lm.eval()(input_ids=ids, use_cache=False).logits.float()
    if not is_close(found, expected, max(1e-4, 16 * torch.finfo(lm.dtype).eps)):
        raise CheckpointError(f"{type(lm).__name__} does not fold into a plain language model: its logits would change")


# ------------------------------------------------------------ its files


def extended_tokenizer(model: JointLM, scratch: Path) -> PreTrainedTokenizerBase:
    """The text tokenizer with the visual tokens at their ids: `<img_00000>` ..., `<img>`, `</img>`.

    Where the LM has more rows than the text tokenizer has tokens, tokens `<unused_...>` fill the gap. `scratch` is an
    empty folder. Raises CheckpointError where the tokenizer has more tokens than the LM has rows.
    """
    from transformers import AddedToken

    vocabulary = model.vocabulary
    names = {vocabulary.begin: BEGIN, vocabulary.end: END}
    names |= {vocabulary.first_code + code: CODE.format(code) for code in range(vocabulary.codes)}
    model.text_tokenizer.save_pretrained(str(scratch))
    tokenizer: Any = load_tokenizer(str(scratch), cached=True, spaced=is_llamas(model.text_tokenizer))
    if len(tokenizer) > vocabulary.text:
        raise CheckpointError(f"the text tokenizer has {len(tokenizer)} tokens, and the LM rows for {vocabulary.text}")
    new = [names.get(i, f"<unused_{i:05d}>") for i in range(len(tokenizer), vocabulary.size)]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in new])
    if tokenizer.convert_tokens_to_ids([BEGIN, END, CODE.format(0)]) != [
        vocabulary.begin, vocabulary.end, vocabulary.first_code
    ]:  # fmt: skip
        raise CheckpointError("the text tokenizer has tokens named as the visual ones: it cannot be extended")
    return cast("PreTrainedTokenizerBase", tokenizer)
