"""Copies finished runs into the package as its mini weights, in 16 bits (they load as float32).

python tools/ship.py RUN/final PART

PART: vision, diffusion, lcm_lora (of RUN/final/lcm_lora), tokenizer, judge, eval_clip; opt, lm, lm_captions. After
vision or tokenizer, `python tools/familiarity.py --write` measures anew which pictures are far from those of training.
Codes are made in float16; all others are kept as bfloat16, of which a wheel compresses a fifth, and of float16 a
twelfth.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import seedtok
from seedtok.core.checkpoint import checkpoint_folder
from seedtok.tokenizer.embedder import shared_vision

PACKAGE = Path(seedtok.__file__).parent / "pretrained" / "mini"
PARTS = ("vision", "diffusion", "lcm_lora", "tokenizer", "judge", "eval_clip", "opt", "lm", "lm_captions")
FLOAT16 = ("vision", "tokenizer")


def half(path: Path, dtype: torch.dtype) -> None:
    """Rewrites a safetensors file in 16 bits in place of float32; raises ValueError where a value would overflow."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            tensors[name] = tensor.to(dtype)
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(f"{path}: {name} does not fit {dtype}")
    save_file(tensors, path, metadata={"format": "pt"})


def share_vision(path: Path) -> None:
    """Takes out a tokenizer's ViT, which is the shipped image encoder; raises ValueError where it is another."""
    tensors = load_file(path)
    for name, tensor in shared_vision(PACKAGE, {"vision_from": "vision"}, "embedder.vision.").items():
        if not torch.equal(tensors.pop(name).to(tensor.dtype), tensor):
            raise ValueError(f"{path}: {name} is not that of the shipped image encoder: train on that first")
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    run, part = Path(sys.argv[1]), sys.argv[2]
    if part not in PARTS:
        sys.exit(f"no part {part}: expected one of {', '.join(PARTS)}")
    target = PACKAGE / part
    with checkpoint_folder(target) as new:
        shutil.copytree(run, new, dirs_exist_ok=True)
        for path in new.rglob("*.safetensors"):
            half(path, torch.float16 if part in FLOAT16 else torch.bfloat16)
        for path in new.rglob("*.json"):  # where they came from is nobody's business
            record = json.loads(path.read_text())
            if isinstance(record, dict):
                kept = {key: value for key, value in record.items() if not key.endswith("_name_or_path")}
                path.write_text(json.dumps(kept, indent=2))
        for path in new.rglob("README.md"):  # peft's card, to be filled in
            path.unlink()
        config = new / "config.json"
        record = json.loads(config.read_text()) if config.exists() else {}
        if "image_decoder" in record:
            record["image_decoder"] = "../diffusion"
        if "base" in record:
            record["base"] = "mini"
        if "tokenizer" in record:
            record["tokenizer"] = "mini"
        if part == "tokenizer":
            share_vision(new / "model.safetensors")
            record["vision_from"] = "../vision"
        if record:
            config.write_text(json.dumps(record, indent=1))
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 1e6
    print(f"{target}: {size:.1f} MB")


if __name__ == "__main__":
    main()
