"""Cuts the numerical reference of the published network to the part that the tests need.

python tools/cut_reference.py FULL.safetensors tests/data/reference.safetensors

What is cut changes no number that is left:
- a codebook keeps the vectors that are some query's nearest, and the first others, 512 in all: the nearest stay so;
- of a last linear layer, and what it puts out, the first columns are kept, where no loss is over all of them;
- of gradients every fourth row, of codebooks' every row that is left;
- ViT and Q-Former of sections that only test what comes after them, which start from the stored causal embeddings. To
  load such a section as a checkpoint, `borrowed` in the header names a section that has tensors of these shapes.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SECTIONS = ("v1", "stage1", "stage2_text", "v2", "v2_qformer_image")  # stage2_image: the successor's training
VECTORS, COLUMNS, ROWS = 512, 64, 4
FRONT = ("visual_encoder", "ln_vision", "Qformer", "query_tokens")
UNUSED = ("stage1/state_dict/Qformer.cls.", "v1/code_margin", "v2/decode_task_out", "v2_qformer_image/decode_task_out")
CODE_DECODER = ("blocks", "pos_embed")
BORROWED = {
    section: dict.fromkeys(FRONT, "v1") | dict.fromkeys(CODE_DECODER, "stage2_text")
    for section in ("v2", "v2_qformer_image")
}
LEFT_OUT = {"stage2_text": FRONT, "v2": (*FRONT, *CODE_DECODER), "v2_qformer_image": (*FRONT, *CODE_DECODER)}
LAST = {"v1": ("distill_text_proj", "gen_emb"), "v2": ("distill_image_proj", "image_embed")}
LAST["v2_qformer_image"] = LAST["v2"]


def is_left_out(section: str, key: str) -> bool:
    """Whether a tensor is of a module that no test of this section computes with."""
    module = key.removeprefix(f"{section}/state_dict/").partition(".")[0]
    return module in LEFT_OUT.get(section, ())


def cut_codebook(tensors: dict[str, Tensor], section: str, codes: Tensor) -> None:
    """Keeps `VECTORS` vectors of a codebook, in their order, and numbers the codes anew."""
    chosen = codes.unique()
    others = torch.tensor([i for i in range(2 * VECTORS) if i not in set(chosen.tolist())])
    kept = torch.cat([chosen, others[: VECTORS - len(chosen)]]).sort().values
    for part in ("state_dict", "grads"):
        if (name := f"{section}/{part}/quantize.embedding.weight") in tensors:
            tensors[name] = tensors[name][kept]
    for name in (f"{section}/codes", f"{section}/taps/quantize/2"):
        if name in tensors:
            tensors[name] = torch.searchsorted(kept, tensors[name])


def cut_last_layer(tensors: dict[str, Tensor], section: str, layer: str, output: str) -> None:
    for kind in ("weight", "bias"):
        tensors[f"{section}/state_dict/{layer}.{kind}"] = tensors[f"{section}/state_dict/{layer}.{kind}"][:COLUMNS]
    for name in (f"{section}/{output}", f"{section}/taps/{layer}"):
        if name in tensors:
            tensors[name] = tensors[name][..., :COLUMNS]


def cut(full: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {"image": full["image"]}
    for section in SECTIONS:
        own = {key: tensor for key, tensor in full.items() if key.startswith(f"{section}/")}
        tensors |= {k: t for k, t in own.items() if not k.startswith(UNUSED) and not is_left_out(section, k)}
        if section != "stage1":
            codes = full.get(f"{section}/codes", full.get(f"{section}/taps/quantize/2"))
            assert codes is not None
            cut_codebook(tensors, section, codes)
        if section in LAST:
            cut_last_layer(tensors, section, *LAST[section])
    for key, tensor in tensors.items():
        rows = tensor.shape[0] if tensor.ndim else 1
        if "/grads/" in key and rows % ROWS == 0 and "quantize" not in key:
            tensors[key] = tensor[::ROWS]
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    with safe_open(source, "pt") as file:
        full = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata() | {"borrowed": json.dumps(BORROWED)}
    save_file(cut(full), target, metadata=metadata)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
