"""Copies finished runs into the package as its mini weights, in half precision (they load as float32).

python tools/ship.py RUN/final PART

PART: vision or clip, diffusion, bidirectional, tokenizer, judge, eval_clip; opt, lm, lm_captions, blip2. After vision,
clip or tokenizer, `python tools/familiarity.py --write` measures anew which pictures are far from those of training.
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
VISION = {  # where a checkpoint keeps its ViT
    "seedtok.embedder": "vision.",
    "seedtok.tokenizer": "embedder.vision.",
    "seedtok.blip2": "embedder.vision.",
}


def half(path: Path) -> None:
    """Rewrites a safetensors file with float16 in place of float32; raises ValueError where a value would overflow."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            tensors[name] = tensor.half()
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(f"{path}: {name} does not fit float16")
    save_file(tensors, path, metadata={"format": "pt"})


def share_vision(path: Path, prefix: str) -> str:
    """Takes out the ViT, which is the shipped image encoder's, or CLIP's, and returns the name of that part.

    Raises ValueError where it is another.
    """
    source = "vision" if (PACKAGE / "vision").is_dir() else "clip"
    tensors = load_file(path)
    for name, tensor in shared_vision(PACKAGE, {"vision_from": source}, prefix).items():
        if not torch.equal(tensors.pop(name).to(tensor.dtype), tensor):
            raise ValueError(f"{path}: {name} is not that of the shipped {source}: train on that first")
    save_file(tensors, path, metadata={"format": "pt"})
    return source


def main() -> None:
    run, part = Path(sys.argv[1]), sys.argv[2]
    target = PACKAGE / part
    with checkpoint_folder(target) as new:
        shutil.copytree(run, new, dirs_exist_ok=True)
        for path in new.rglob("*.safetensors"):
            half(path)
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
        if record.get("format") in VISION:
            record["vision_from"] = f"../{share_vision(new / 'model.safetensors', VISION[record['format']])}"
        if record:
            config.write_text(json.dumps(record, indent=1))
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 1e6
    print(f"{target}: {size:.1f} MB")


if __name__ == "__main__":
    main()
