"""Text ids and visual codes in one sequence (Figure 4): the FC layer that reads codes, the head that writes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seedtok.core.errors import InputError


@dataclass(frozen=True)
class VocabularyConfig:
    """Sizes: the LM's own ids, its word embeddings and what its head reads; the codebook; codes a picture."""

    text: int
    embedding: int
    hidden: int
    codes: int = 8192
    code_dim: int = 32
    span: int = 32


class Vocabulary(nn.Module):
    """Ids below `text` are the LM's own; then come the codes, then begin-of-image and end-of-image.

    A code is read as its codebook vector through one linear layer. Codes and the two marks are written by a visual
    head beside the LM's own. While it is trained, the head may have a second part, the neighbour head, that scores
    codes by their codebook vectors, so that what is learnt of one holds for those near it; saved, both are one linear
    layer.
    """

    codebook: Tensor  # (codes, code_dim), frozen
    neighbour_head: nn.Linear | None  # hidden -> code_dim

    def __init__(self, config: VocabularyConfig):
        super().__init__()
        self.config = config
        self.begin, self.end = config.text + config.codes, config.text + config.codes + 1
        self.register_buffer("codebook", torch.zeros(config.codes, config.code_dim))
        self.read = nn.Linear(config.code_dim, config.embedding)
        self.marks = nn.Embedding(2, config.embedding)
        self.write = nn.Linear(config.hidden, config.codes + 2)
        self.neighbour_head = None

    def __len__(self) -> int:
        return self.config.text + self.config.codes + 2

    @torch.no_grad()
    def initialise(self, codebook: Float[Tensor, "codes d"], words: Float[Tensor, "n width"]) -> None:
        """Takes over a codebook, and starts visual embeddings at the scale of the LM's own `words`, in every dimension.

        Raises:
            ValueError: the codebook has other sizes.
        """
        if codebook.shape != self.codebook.shape:
            raise ValueError(f"a codebook of {tuple(codebook.shape)}; this vocabulary has {tuple(self.codebook.shape)}")
        self.codebook.copy_(codebook)
        scale = words.float().square().mean(0).sqrt()  # (width,)
        spread = self.codebook.float().square().sum(1).mean().sqrt().clamp(min=1e-6)
        nn.init.normal_(self.read.weight).mul_((scale / spread)[:, None])
        nn.init.zeros_(self.read.bias)
        nn.init.normal_(self.marks.weight).mul_(scale)
        nn.init.normal_(self.write.weight, std=0.1 * self.config.hidden**-0.5)
        nn.init.zeros_(self.write.bias)

    @torch.no_grad()
    def add_neighbour_head(self) -> None:
        """Adds the neighbour head, for training, without effect yet. It is ours: the paper has none."""
        head = nn.Linear(self.config.hidden, self.config.code_dim, bias=False).to(self.write.weight)
        nn.init.zeros_(head.weight)
        self.neighbour_head = head

    def _directions(self) -> Float[Tensor, "codes d"]:
        """Codebook vectors about their mean, of mean square 1."""
        centred = self.codebook - self.codebook.mean(0)
        return (centred / centred.square().mean().sqrt().clamp(min=1e-6)).to(self.write.weight.dtype)

    @torch.no_grad()
    def saved(self) -> dict[str, Tensor]:
        """The state, with a head of one layer."""
        extra = "neighbour_head.weight"
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items() if name != extra}
        if self.neighbour_head is not None:
            head = state["write.weight"].clone()
            head[:-2] += self._directions() @ self.neighbour_head.weight
            state["write.weight"] = head
        return state

    # ------------------------------------------------------------ ids

    def span(self, codes: Int[Tensor, "*b n"]) -> Int[Tensor, "*b m"]:
        """Codes (..., 32) -> ids of a picture in a sequence (..., 34): begin, codes, end.

        Raises:
            InputError: another number of codes, or one out of range.
        """
        if codes.shape[-1] != self.config.span:
            raise InputError(f"a picture is {self.config.span} codes; got {codes.shape[-1]}")
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < self.config.codes):
            raise InputError(f"codes are {int(codes.min())}..{int(codes.max())}; valid are 0..{self.config.codes - 1}")
        marks = codes.new_tensor([self.begin, self.end]).expand(*codes.shape[:-1], 2)
        return torch.cat([marks[..., :1], codes + self.config.text, marks[..., 1:]], dim=-1)

    def is_visual(self, ids: Int[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
        return ids >= self.config.text

    # ------------------------------------------------------------ reading and writing

    def embed(self, ids: Int[Tensor, "*b"], words: nn.Module) -> Float[Tensor, "*b width"]:
        """Ids of both kinds -> input embeddings; `words` is the LM's own embedding layer."""
        visual = ids - self.config.text  # negative for words
        texts = words(ids.clamp(max=self.config.text - 1))
        codes = self.read(self.codebook[visual.clamp(0, self.config.codes - 1)].to(self.read.weight.dtype))
        marks = self.marks((visual - self.config.codes).clamp(min=0))
        visuals = torch.where((visual >= self.config.codes)[..., None], marks, codes)
        return torch.where((visual >= 0)[..., None], visuals.to(texts.dtype), texts)

    def code_logits(self, hidden: Float[Tensor, "*b h"]) -> Float[Tensor, "*b codes"]:
        """Of the codes alone: all that is asked for inside a picture."""
        logits = nn.functional.linear(hidden, self.write.weight[:-2], self.write.bias[:-2])
        if self.neighbour_head is None:
            return logits
        return logits + self.neighbour_head(hidden) @ self._directions().T.to(logits.dtype)

    def joint_logits(self, text: Float[Tensor, "*b v"], hidden: Float[Tensor, "*b h"]) -> Float[Tensor, "*b all"]:
        """Of the whole vocabulary, from the LM's own logits and the states they were made of."""
        marks = nn.functional.linear(hidden, self.write.weight[-2:], self.write.bias[-2:])
        return torch.cat([text, self.code_logits(hidden).to(text.dtype), marks.to(text.dtype)], dim=-1)
