"""Drawing by `SeedLM` beside the same model through transformers' `generate`; captions in batches of 1, 8 and 32.

`generate` computes the logits of the whole vocabulary at each step: with LoRA beside the LM's weights, as peft loads
it, or on the plain language model (`lm.plain.fold`). Captions are compared with `generate` on the same LM and batches.

    python benchmarks/language.py [--threads 2] [--model mini] [--dtype float32] [--rounds 5]
"""

import argparse
import copy
import statistics
import time
from dataclasses import replace

import torch
from encode import rate
from torch import nn

from seedtok import SeedLM
from seedtok.core.processes import keep_freed_memory
from seedtok.lm.plain import fold
from seedtok.lm.prompts import CAPTION, CAPTIONING, drawing_prompt
from seedtok.lm.texts import complete
from seedtok.mini.world.scenes import caption, unique_scenes
from seedtok.mini.world.source import to_batch


class Joint(nn.Module):
    """The visual head after the LM's own, as one head of the whole vocabulary."""

    def __init__(self, text: nn.Module, visual: nn.Module):
        super().__init__()
        self.text, self.visual = text, visual

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.text(states), self.visual(states)], dim=-1)


def joint_lm(model: SeedLM) -> nn.Module:
    """The LM, its LoRA in place, with text and codes in one embedding table and under one head."""
    lm = copy.deepcopy(model.joint.lm)
    table = model.joint.embed(torch.arange(model.vocabulary.size)).detach()
    lm.lm_head = Joint(lm.lm_head, model.joint.adapter.visual_head)
    lm.set_input_embeddings(nn.Embedding.from_pretrained(table))
    lm.config.vocab_size = lm.generation_config.vocab_size = len(table)
    return lm.eval()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="of captions; the median counts")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    model = SeedLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    scenes = unique_scenes("test", 4)
    prompts = [caption(scene) for scene in scenes]
    span = model.vocabulary.span
    plain = fold(model.joint)
    model.joint.network.unmerge_adapter()
    beside = joint_lm(model)
    model.joint.network.merge_adapter()
    ids = [torch.tensor([[*model.joint.sequence([drawing_prompt(p)]), model.vocabulary.begin]]) for p in prompts]

    def through_generate(lm: nn.Module) -> float:
        """Seconds for the 32 codes of every prompt, one by one."""
        return sum(
            1 / rate(lambda row=row: lm.generate(
                row, attention_mask=torch.ones_like(row), min_new_tokens=span, max_new_tokens=span, do_sample=False
            ), 1, 2.0) for row in ids
        )  # fmt: skip

    ours = sum(1 / rate(lambda p=p: model.draw_codes(p), 1, 2.0) for p in prompts)
    print(f"32 codes, one image: SeedLM {1000 * ours / len(prompts):.0f} ms")
    for name, lm in (("LoRA beside the weights", beside), ("plain", plain)):
        theirs = through_generate(lm)
        print(f"  generate, {name}: {1000 * theirs / len(prompts):.0f} ms, {theirs / ours:.2f} times as long")
    codes = model.seed.encode(to_batch(unique_scenes("test", 128), 128).pixels)
    rows = [model.joint.sequence([image, CAPTION]) for image in codes]
    by_generate = replace(CAPTIONING, generate_options={"use_cache": True})  # any option of its own, and it decodes
    rates = {(size, name): [] for size in (1, 8, 32) for name in ("SeedLM", "generate")}
    for _ in range(args.rounds):  # in turn, so that a slow minute of the machine slows all of them
        for (size, name), measured in rates.items():
            began = time.process_time()
            complete(model.joint, rows, by_generate if name == "generate" else CAPTIONING, size)
            measured.append(len(codes) / (time.process_time() - began))
    median = {key: statistics.median(measured) for key, measured in rates.items()}
    print(f"{len(codes)} captions, beams of 5, a second of CPU time:")
    for size in (1, 8, 32):
        ours, theirs = median[size, "SeedLM"], median[size, "generate"]
        print(f"  {size} at a time: SeedLM {ours:.1f}, generate {theirs:.1f}; {ours / theirs:.2f} times as many")


if __name__ == "__main__":
    main()
