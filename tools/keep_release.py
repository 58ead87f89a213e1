"""Writes tiny checkpoints of every form as this release writes them, with what they compute.

python tools/keep_release.py FOLDER

tests/test_release.py loads those of each release in tests/data/releases, so that later ones keep loading them. Run it
once a release, on tests/data/releases/VERSION; what is there already is never written again.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertTokenizer, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.tokenizer.vision import VisionConfig

SIZES: dict[str, Any] = {"width": 8, "layers": 1, "heads": 2, "mlp_width": 16}
WORDS = ["a", "photo", "of", "fox", "red", "background", "generate", "an", "image"]


def image_tokenizer() -> SeedTokenizer:
    """A SEED tokenizer of random weights, with 32 codes of 64."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = BertTokenizer(vocab={word: number for number, word in enumerate([*marks, *WORDS])})
    vision = VisionConfig(image_size=16, patch_size=8, **SIZES)
    qformer = QFormerConfig(
        **SIZES, encoder_width=8, vocab_size=len(words), max_text_positions=16, dropout=0.0
    )  # fmt: skip
    config = SeedConfig(
        embedder=EmbedderConfig(vision, qformer, projection=8),
        codebook=CodebookConfig(64, 4),
        code_decoder=CodeDecoderConfig(width=8, layers=1, heads=2),
        reverse_qformer=ReverseQFormerConfig(queries=4, encoder_width=8, output_width=8, **SIZES),
        image_decoder="mini",
    )
    seed = SeedTokenizer(config, words)
    for parameter in seed.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return seed.eval()


def write_base(folder: Path) -> None:
    """A causal LM of random weights."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    plain.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    marks = ["<s>", "</s>", "<pad>"]
    plain.train_from_iterator([" ".join(WORDS)], trainers.BpeTrainer(vocab_size=60, special_tokens=marks))
    words = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = OPTConfig(
        vocab_size=len(words), hidden_size=8, word_embed_proj_dim=8, ffn_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=96, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    lm = OPTForCausalLM(config)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    lm.save_pretrained(folder)
    words.save_pretrained(str(folder))


def picture() -> Image.Image:
    """The picture that the checkpoints are tried on."""
    return Image.frombytes("RGB", (16, 16), bytes(number * 37 % 251 for number in range(16 * 16 * 3)))


def computed(model: SeedLM) -> dict[str, object]:
    """What a language model and its image tokenizer compute: codes, a caption, the codes of a drawing."""
    codes = model.seed.encode(picture())
    return {
        "codes": codes[0].tolist(),
        "caption": model.caption(codes, num_beams=1, prompt="a photo of", min_new_tokens=8, max_new_tokens=8)[0],
        "drawn": model.draw_codes("a red fox")[0].tolist(),
    }


def main(out: Path) -> None:
    """Writes tokenizer, embedder, base, language model and plain language model, and expected.json."""
    if out.exists():
        sys.exit(f"{out} exists: a release is kept once")
    disable_progress_bar()
    torch.manual_seed(0)
    seed = image_tokenizer()
    seed.save_pretrained(out / "tokenizer")
    seed.embedder.save_pretrained(out / "embedder")
    write_base(out / "base")
    model = SeedLM.build(out / "base", SeedTokenizer.from_pretrained(out / "tokenizer"))
    for parameter in model.joint.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out / "lm")
    model.save_plain(out / "plain")
    (out / "expected.json").write_text(json.dumps(computed(model)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
