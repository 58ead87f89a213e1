"""Copies finished runs into the package as its mini weights, in half precision (they load as float32).

python tools/ship.py RUN/final PART      # PART: clip, diffusion, bidirectional, tokenizer, judge, eval_clip
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import seedtok
from seedtok.files import whole_folder


def half(path: Path) -> None:
    """Rewrites a safetensors file with float16 in place of float32; raises ValueError where a value would overflow."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            tensors[name] = tensor.half()
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(f"{path}: {name} does not fit float16")
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    run, part = Path(sys.argv[1]), sys.argv[2]
    target = Path(seedtok.__file__).parent / "pretrained" / "mini" / part
    with whole_folder(target) as new:
        shutil.copytree(run, new, dirs_exist_ok=True)
        for path in new.rglob("*.safetensors"):
            half(path)
        config = new / "config.json"
        record = json.loads(config.read_text()) if config.exists() else {}
        if "image_decoder" in record:
            config.write_text(json.dumps(record | {"image_decoder": "../diffusion"}, indent=1))
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 1e6
    print(f"{target}: {size:.1f} MB")


if __name__ == "__main__":
    main()
