"""Drawing by `SeedLM` beside the same model through transformers' `generate`; captions in batches of 1, 8 and 32.

Through `generate` the codes are part of one vocabulary: one embedding table, one head, all of it computed at each step,
with the adapter beside the LM's weights, as peft loads it, or merged into them, as `SeedLM` has it.

    python benchmarks/language.py [--threads 2] [--model mini] [--dtype float32] [--rounds 5]
"""

import argparse
import copy
import statistics
import time

import torch
from encode import rate
from torch import nn

from seedtok import SeedLM
from seedtok.core.processes import keep_freed_memory
from seedtok.lm.generation import draw_codes
from seedtok.lm.packing import sequence
from seedtok.lm.prompts import drawing_prompt
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
    """The LM, its LoRA in place, with words and codes in one embedding table and under one head."""
    lm = copy.deepcopy(model.lm)
    table = model.embed(torch.arange(len(model.vocabulary))).detach()
    lm.lm_head = Joint(lm.lm_head, model.vocabulary.write)
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
    span = model.vocabulary.config.span
    merged = joint_lm(model)
    model.adapter.unmerge_adapter()
    beside = joint_lm(model)
    model.adapter.merge_adapter()
    ids = [torch.tensor([[*sequence(model, [drawing_prompt(p)]), model.vocabulary.begin]]) for p in prompts]

    def through_generate(lm: nn.Module) -> float:
        """Seconds for the 32 codes of every prompt, one by one."""
        return sum(
            1 / rate(lambda row=row: lm.generate(
                row, attention_mask=torch.ones_like(row), min_new_tokens=span, max_new_tokens=span, do_sample=False
            ), 1, 2.0) for row in ids
        )  # fmt: skip

    ours = sum(1 / rate(lambda p=p: draw_codes(model, [p]), 1, 2.0) for p in prompts)
    print(f"32 codes, one picture: SeedLM {1000 * ours / len(prompts):.0f} ms")
    for name, lm in (("beside the weights", beside), ("merged", merged)):
        theirs = through_generate(lm)
        print(f"  generate, adapter {name}: {1000 * theirs / len(prompts):.0f} ms, {theirs / ours:.2f} times as long")
    codes = model.seed.encode(to_batch(unique_scenes("test", 128), 128).pixels)
    rates = {n: [] for n in (1, 8, 32)}
    for _ in range(args.rounds):  # in turn, lest a slow minute of the machine be of one alone
        for size, measured in rates.items():
            began = time.perf_counter()
            model.caption(codes, batch_size=size)
            measured.append(len(codes) / (time.perf_counter() - began))
    one, eight, many = (statistics.median(measured) for measured in rates.values())
    print(f"{len(codes)} captions, beams of 5, a second: one at a time {one:.1f}")
    print(
        f"  8 at a time {eight:.1f}, {eight / one:.2f} times as many; 32 at a time {many:.1f}, {many / one:.2f} times"
    )


if __name__ == "__main__":
    main()
