"""GILL (Koh et al. 2023), the baseline of Table 2: a frozen LM draws by way of learned image tokens.

After a caption come image tokens, [IMG1] to [IMG8], whose embeddings alone are learned; the LM's states at them are
mapped to the text features that a frozen diffusion model draws from. GILL also learns when to draw and to retrieve;
what is compared here is how it draws, so neither is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, read_config, write_checkpoint
from seedtok.core.files import assign_strictly, built_for, read_tensors
from seedtok.core.hub import locate, named_part, recorded
from seedtok.core.kinds import GILL
from seedtok.core.notices import quietly
from seedtok.core.records import encodable, from_record
from seedtok.lm.base import load_base, output_head, word_embedding
from seedtok.lm.packing import left_pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1


@dataclass(frozen=True)
class GillConfig:
    """Sizes of image tokens and mapper; the defaults are the paper's, on OPT-6.7B and Stable Diffusion v1.5.

    `queries` x `output_width` is the shape of the text features; `width` is the mapper's own.
    """

    tokens: int = 8
    lm_width: int = 4096
    width: int = 512
    layers: int = 4  # of its encoder, and of its decoder
    heads: int = 4
    queries: int = 77
    output_width: int = 768


class GillMapper(nn.Module):
    """GILLMapper: states of the image tokens (B, tokens, LM width) -> text features (B, 77, output width).

    A transformer whose encoder reads the states and whose decoder has learned queries, which attend to them.
    """

    def __init__(self, config: GillConfig):
        super().__init__()
        self.input = nn.Linear(config.lm_width, config.width)
        self.transformer = nn.Transformer(
            config.width, config.heads, config.layers, config.layers, 4 * config.width, dropout=0.0, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.queries = nn.Parameter(torch.randn(1, config.queries, config.width))
        self.output = nn.Linear(config.width, config.output_width)

    def forward(self, states: Float[Tensor, "b n h"]) -> Float[Tensor, "b t w"]:
        return self.output(self.transformer(self.input(states), self.queries.expand(len(states), -1, -1)))


class Gill(nn.Module):
    """A frozen LM with learned image tokens after each caption, and the mapper of its states at them."""

    def __init__(
        self, config: GillConfig, lm: PreTrainedModel, text_tokenizer: PreTrainedTokenizerBase, base: str = ""
    ):
        super().__init__()
        self.config, self.text_tokenizer, self.base = config, text_tokenizer, base
        self.lm = lm
        self.image_tokens = nn.Parameter(torch.zeros(config.tokens, word_embedding(lm).embedding_dim))
        self.mapper = GillMapper(config)

    def forward(self, captions: Sequence[str]) -> Float[Tensor, "b t w"]:
        """Captions -> the text features that stand for them."""
        ids, mask = left_pad(self._ids(captions), self.image_tokens.device)
        texts = word_embedding(self.lm)(ids).to(self.image_tokens.dtype)
        tokens = self.image_tokens.expand(len(ids), -1, -1)
        out = self.lm.base_model(
            inputs_embeds=torch.cat([texts, tokens], dim=1),
            attention_mask=torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1),
            use_cache=False,
        )
        states = out.last_hidden_state[:, -self.config.tokens :]
        return self.mapper(states.to(self.image_tokens.dtype))

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> Float[Tensor, "b t w"]:
        """As `forward`, to draw from."""
        return self(captions)

    def _ids(self, captions: Sequence[str]) -> list[list[int]]:
        first = self.text_tokenizer.bos_token_id
        start = [] if first is None else [cast(int, first)]
        texts = [encodable(caption.strip()) for caption in captions]
        every = cast(list[list[int]], self.text_tokenizer(texts, add_special_tokens=False).input_ids)
        return [[*start, *ids] for ids in every]

    # ------------------------------------------------------------ files

    @classmethod
    @quietly("transformers")
    def build(cls, base: str | Path, config: GillConfig) -> Gill:
        """A new one over a base LM, whose width replaces `lm_width`; image tokens as large as its word embeddings."""
        source = locate(base, "opt")
        lm, text_tokenizer = load_base(source, torch.float32)
        model = cls(replace(config, lm_width=output_head(lm).weight.shape[1]), lm, text_tokenizer, source)
        with torch.no_grad():
            model.image_tokens.normal_().mul_(word_embedding(lm).weight.square().mean(0).sqrt())
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes image tokens and mapper; a base in a folder stays there, and is named relative to `folder`."""
        with checkpoint_folder(Path(folder)) as new:
            config = {"base": recorded(self.base, "opt", Path(folder), new), "sizes": asdict(self.config)}
            write_checkpoint(new, GILL, VERSION, config, self._own())

    def _own(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("lm.")}

    @classmethod
    @quietly("transformers")
    def from_pretrained(cls, folder: str | Path) -> Gill:
        """Reads what `save_pretrained` wrote; raises CheckpointError for anything else."""
        folder = Path(folder)
        config = read_config(folder, GILL, VERSION)
        source = locate(named_part(config, "base", folder), "opt", folder)
        lm, text_tokenizer = load_base(source, torch.float32)
        sizes = from_record(GillConfig, config.get("sizes"), "a GILL baseline")
        with built_for(config, folder / WEIGHTS):
            model = cls(sizes, lm, text_tokenizer, source)
        own = {f"lm.{name}": tensor for name, tensor in lm.state_dict().items()}
        assign_strictly(model, own | read_tensors(folder / WEIGHTS), str(folder), {"": torch.float32})
        return model.eval()
