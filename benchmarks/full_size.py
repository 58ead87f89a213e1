"""The paper's sizes on this machine, with random weights: each part loaded from files and run, in a process of its own.

Encoding by the full tokenizer (EVA-CLIP ViT-g and all), drawing by a Stable Diffusion v1.4, and 32 codes written by a
SEED LM over an OPT-2.7B and by a SEED-LLaMA of 7B, in bfloat16. Weights are made once, under --folder (26 GB of disk),
and read from there as a user's would be. Beside each rate stands its share of what matrix products alone reach on this
machine, measured in the same process.

    python benchmarks/full_size.py [--threads 2] [--folder DIR] [--part tokenizer|image_decoder|language|llama]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import gemm
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from seedtok import SeedLM, SeedTokenizer
from seedtok.core.atomic import atomic_folder
from seedtok.core.processes import keep_freed_memory
from seedtok.lm.native import SEED_LLAMA
from seedtok.mini.text import bert_tokenizer, clip_tokenizer, lm_tokenizer
from seedtok.recipes import paper_size
from seedtok.tokenizer.image_decoder import ImageDecoder

PARTS = ("tokenizer", "image_decoder", "language", "llama")
IMAGES, STEPS = 8, 4
LLAMA_WORDS = 32_000  # rows of Llama 2's vocabulary, before those of the codes


def gemm_limit() -> float:
    """Operations a second, by the clock, of bfloat16 products."""
    product, operations = gemm(torch.bfloat16)
    product()
    return operations / min(timed(product) for _ in range(10))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """One on the meta device, with random weights in bfloat16 of a size that keeps activations in range."""
    model.to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.named_parameters():
        if name.endswith("bias") or tensor.ndim < 2:
            tensor.fill_(float("norm" in name and name.endswith("weight")))
        else:
            tensor.normal_(std=0.02, generator=generator)
    for tensor in model.buffers():
        tensor.zero_() if tensor.is_floating_point() else tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    return model


def make(part: str, folder: Path) -> None:
    with torch.device("meta"):
        if part == "tokenizer":
            model: nn.Module = paper_size.seed_tokenizer(bert_tokenizer())
        elif part == "language":
            model = paper_size.opt()
        elif part == "llama":
            model = LlamaForCausalLM(LlamaConfig(vocab_size=LLAMA_WORDS + 8194))  # transformers' sizes are Llama 2 7B's
        else:
            pipeline = paper_size.image_decoder(clip_tokenizer()).pipeline
    with atomic_folder(folder) as new:
        if part == "image_decoder":
            for child in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
                filled(child)
            pipeline.save_pretrained(new)
        else:
            filled(model).save_pretrained(new)  # type: ignore[operator]
        if part in ("language", "llama"):
            words = lm_tokenizer(2048)
            if part == "llama":
                words.add_tokens([*map(SEED_LLAMA.code.format, range(8192)), SEED_LLAMA.begin, SEED_LLAMA.end])
            words.save_pretrained(str(new))


def tokenizer(folder: Path) -> tuple[Callable[[], object], float, str]:
    model = SeedTokenizer.from_pretrained(folder, dtype=torch.bfloat16)
    pixels = torch.randn(IMAGES, 3, 224, 224, dtype=torch.bfloat16)
    return lambda: model.encode_pixels(pixels), IMAGES, "images"


def image_decoder(folder: Path) -> tuple[Callable[[], object], float, str]:
    decoder = ImageDecoder.from_pretrained(folder, torch.bfloat16)
    embeddings = torch.randn(1, 77, 768, dtype=torch.bfloat16)
    return lambda: decoder.draw(embeddings, STEPS, 7.5, torch.Generator().manual_seed(0)), 1, "images"


def language(folder: Path) -> tuple[Callable[[], object], float, str]:
    seed = SeedTokenizer.from_pretrained("mini", dtype=torch.bfloat16)  # of the paper's codebook sizes
    model = SeedLM.build(folder, seed, dtype=torch.bfloat16)
    model.joint.network.merge_adapter()  # type: ignore[operator]  # as a loaded one is
    model.to(torch.bfloat16)
    return lambda: model.draw_codes("a fox on a blue background"), model.vocabulary.span, "tokens"


def llama(folder: Path) -> tuple[Callable[[], object], float, str]:
    seed = SeedTokenizer.from_pretrained("mini", dtype=torch.bfloat16)
    model = SeedLM.from_pretrained(folder, seed=seed, dtype=torch.bfloat16)
    return lambda: model.draw_codes("a fox on a blue background"), model.vocabulary.span, "tokens"


def planned() -> dict[str, float]:
    """What counting without values, as `seedtok plan` does, says of the tokenizer's part."""
    with torch.device("meta"):
        model = paper_size.seed_tokenizer(bert_tokenizer()).to(torch.bfloat16).requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model.encode_head(model.causal_embeddings(torch.empty(IMAGES, 3, 224, 224, dtype=torch.bfloat16)))
    codebook = 2 * IMAGES * 32 * 32 * 8192
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "planned_tflop": round((counter.get_total_flops() + codebook) / 1e12, 2),
        "planned_gib": round(weights / 2**30, 2),
    }


def resident() -> float:
    """The most memory this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@torch.no_grad()
def measure(part: str, folder: Path) -> dict[str, object]:
    before, start = resident(), time.perf_counter()
    parts = {"tokenizer": tokenizer, "image_decoder": image_decoder, "language": language, "llama": llama}
    run, count, unit = parts[part](folder)
    loaded = time.perf_counter() - start
    seconds = min(timed(run) for _ in range(2))
    most = resident()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
        run()
    operations = sum(event.flops for event in profile.key_averages())
    limit = gemm_limit()
    return {
        "part": part,
        "loaded_s": round(loaded, 1),
        f"{unit}_per_s": round(count / seconds, 3),
        "tflop": round(operations / 1e12, 2),
        "gemm_limit_gflops": round(limit / 1e9),
        "share_of_limit": round(operations / seconds / limit, 2),
        "peak_gib": round(most, 2),
        "of_which_libraries_gib": round(before, 2),
        **(planned() if part == "tokenizer" else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "seedtok-full-size")
    parser.add_argument("--part", choices=PARTS, help="that alone, in this process")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    if args.part and args.make:
        make(args.part, args.folder / args.part)
    elif args.part:
        print(json.dumps(measure(args.part, args.folder / args.part)))
    else:
        for part in PARTS:
            own = [sys.executable, __file__, "--threads", str(args.threads), "--folder", str(args.folder)]
            if not (args.folder / part).is_dir():
                subprocess.run([*own, "--part", part, "--make"], check=True)
            subprocess.run([*own, "--part", part], check=True)


if __name__ == "__main__":
    main()
