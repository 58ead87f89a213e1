"""What is trained of SEED-OPT (section 3.1, Figure 4): the FC layer into the LM, its visual head, and LoRA in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.errors import CheckpointError
from seedtok.core.notices import quietly
from seedtok.core.products import linear_of_few
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.codebook import mean_and_scale

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# tensors of visual.safetensors as checkpoints of version 1 name them -> their names here
STORED_NAMES = {"read": "input_projection", "marks": "boundary_embeddings", "write": "visual_head"}


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of the visual layers, and the parts of the visual head.

    `text`, `embedding` and `hidden` are the LM's: its rows of word embeddings, their width, and the width of the states
    that its head reads. A bias of the visual head folds into a plain language model only where the LM's last norm
    allows it (`plain.constant_direction`), so new models have none; that is ours, as the head itself.
    """

    text: int
    embedding: int
    hidden: int
    codes: int = 8192
    code_dim: int = 32
    span: int = 32  # codes of an image
    head_bias: bool = False

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids of the joint sequence: text, codes, begin, end."""
        return Vocabulary.after_text(self.text, self.codes, self.span)


class VisualAdapter(nn.Module):
    """The visual layers: embeddings of codes and image boundaries for the LM to read, and their logits.

    A code is embedded as its codebook vector through one linear layer, the paper's FC layer. Codes and the two
    boundaries are predicted by a linear visual head beside the LM's own head. The head may have a second term while it
    is trained, the neighbour head: it scores a code by its codebook vector, so that what is learnt of one code extends
    to those near it. It is linear too, and stored as part of the visual head.
    """

    codebook: Tensor  # (codes, code_dim), frozen
    neighbour_head: nn.Linear | None  # hidden -> code_dim

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        self.register_buffer("codebook", torch.zeros(config.codes, config.code_dim))
        self.input_projection = nn.Linear(config.code_dim, config.embedding)
        self.boundary_embeddings = nn.Embedding(2, config.embedding)  # begin, end
        self.visual_head = nn.Linear(config.hidden, config.codes + 2, bias=config.head_bias)  # codes, begin, end
        self.neighbour_head = None

    @torch.no_grad()
    def initialise(self, codebook: Float[Tensor, "codes d"], text_embeddings: Float[Tensor, "n width"]) -> None:
        """Copies a codebook; draws visual embeddings with the standard deviation of the text's, in every dimension.

        Raises:
            ValueError: the codebook has other sizes.
        """
        if codebook.shape != self.codebook.shape:
            raise ValueError(f"a codebook of {tuple(codebook.shape)}; this adapter has {tuple(self.codebook.shape)}")
        self.codebook.copy_(codebook)
        scale = text_embeddings.float().square().mean(0).sqrt()  # (width,)
        spread = self.codebook.float().square().sum(1).mean().sqrt().clamp(min=1e-6)
        nn.init.normal_(self.input_projection.weight).mul_((scale / spread)[:, None])
        nn.init.zeros_(self.input_projection.bias)
        nn.init.normal_(self.boundary_embeddings.weight).mul_(scale)
        nn.init.normal_(self.visual_head.weight, std=0.1 * self.config.hidden**-0.5)
        if self.config.head_bias:
            nn.init.zeros_(self.visual_head.bias)

    @torch.no_grad()
    def add_neighbour_head(self) -> None:
        """Adds the neighbour head with zero weights. It is ours: the paper has none."""
        head = nn.Linear(self.config.hidden, self.config.code_dim, bias=False).to(self.visual_head.weight)
        nn.init.zeros_(head.weight)
        self.neighbour_head = head

    # ------------------------------------------------------------ in and out

    def embed(self, ids: Int[Tensor, "*b"], text_embedding: nn.Module) -> Float[Tensor, "*b width"]:
        """Ids of the joint vocabulary -> the LM's input embeddings; `text_embedding` is the LM's own layer."""
        visual = ids - self.config.text  # negative for text
        texts = text_embedding(ids.clamp(max=self.config.text - 1))
        vectors = self.codebook[visual.clamp(0, self.config.codes - 1)]
        codes = self.input_projection(vectors.to(self.input_projection.weight.dtype))
        boundaries = self.boundary_embeddings((visual - self.config.codes).clamp(min=0))
        visuals = torch.where((visual >= self.config.codes)[..., None], boundaries, codes)
        return torch.where((visual >= 0)[..., None], visuals.to(texts.dtype), texts)

    def code_logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b codes"]:
        """Logits of the codes alone."""
        product = F.linear if torch.is_grad_enabled() else linear_of_few
        logits = product(states, self.visual_head.weight[:-2], self._bias(slice(None, -2)))
        if self.neighbour_head is None:
            return logits
        return logits + self.neighbour_head(states) @ self._code_directions().T.to(logits.dtype)

    def boundary_logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b 2"]:
        """Logits of begin-of-image and end-of-image."""
        return F.linear(states, self.visual_head.weight[-2:], self._bias(slice(-2, None)))

    def _bias(self, rows: slice) -> Tensor | None:
        return self.visual_head.bias[rows] if self.config.head_bias else None

    def _code_directions(self) -> Float[Tensor, "codes d"]:
        """Codebook vectors less their mean, with a mean square of 1."""
        mean, scale = mean_and_scale(self.codebook)
        return ((self.codebook - mean) / scale).to(self.visual_head.weight.dtype)

    # ------------------------------------------------------------ folding

    @torch.no_grad()
    def embedding_rows(self) -> Float[Tensor, "rows width"]:
        """The embeddings of all codes, of begin and of end, as rows of one table."""
        codes = self.input_projection(self.codebook.to(self.input_projection.weight.dtype))
        return torch.cat([codes, self.boundary_embeddings.weight])

    @torch.no_grad()
    def head_rows(self) -> Float[Tensor, "rows hidden"]:
        """The weight of the visual head for all codes, begin and end, with the neighbour head added to it."""
        weight = self.visual_head.weight.detach().clone()
        if self.neighbour_head is not None:
            weight[:-2] += self._code_directions() @ self.neighbour_head.weight
        return weight

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of the adapter: its state, with the neighbour head folded into the visual head."""
        state = {name: t.contiguous() for name, t in self.state_dict().items() if not name.startswith("neighbour_head")}
        return state | {"visual_head.weight": self.head_rows()}


def renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a visual.safetensors under the names that `VisualAdapter` has for them."""
    parts = ((name.partition("."), tensor) for name, tensor in stored.items())
    return {STORED_NAMES.get(layer, layer) + dot + rest: tensor for (layer, dot, rest), tensor in parts}


# ------------------------------------------------------------ LoRA


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on every linear layer of the LM but its head; the successor's values."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


def add_lora(lm: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Puts LoRA into a frozen LM; its B matrices are zero, so that the outputs stay as they were."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    return cast("PeftModel", get_peft_model(lm, settings))


def has_lora(network: PreTrainedModel | PeftModel) -> bool:
    """Whether an LM is in peft's wrapper."""
    from peft import PeftModel

    return isinstance(network, PeftModel)


class AdaptedLM(nn.Module):
    """A module around a frozen LM, with or without LoRA: `network`, in peft's wrapper where it has LoRA."""

    network: PreTrainedModel | PeftModel

    @property
    def lm(self) -> PreTrainedModel:
        """The LM without peft's wrapper; LoRA, where there is any, is in its layers."""
        inner: Any = self.network
        return cast("PreTrainedModel", inner.get_base_model() if has_lora(inner) else inner)

    def train(self, mode: bool = True) -> AdaptedLM:
        """Training mode is for LoRA's dropout and what is beside the LM; the frozen LM stays in eval mode."""
        super().train(mode)
        if mode:
            for name, module in self.network.named_modules():
                module.training = "lora_" in name
        return self

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that train, with their names."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


def merged_copy(network: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A copy of an LM with LoRA added to its weights and peft's layers gone; it takes the memory of a second LM.

    Raises CheckpointError for a quantized LM, whose weights are not what they were.
    """
    import copy

    if getattr(network.config, "quantization_config", None) is not None:
        raise CheckpointError("a quantized language model is not written as a whole: load it without quantization")
    copied: Any = copy.deepcopy(network)
    if not has_lora(copied):
        return copied
    with quietly():  # peft warns where LoRA is added already
        return cast("PreTrainedModel", copied.merge_and_unload())
