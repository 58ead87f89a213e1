"""Drawing by `SeedLM` beside the same model through transformers' `generate`; captions in batches of 1, 8 and 32.

`generate` computes the logits of the whole vocabulary at each step and draws one code at a time: with LoRA beside the
LM's weights, as peft loads it, or on the plain language model (`lm.plain.fold`). Captions are compared with `generate`
on the same LM and batches.

    python benchmarks/language.py [--threads 2] [--model mini] [--dtype float32] [--rounds 5]
"""

import argparse
import copy
import statistics
import time
from dataclasses import replace

import torch
from measuring import HEADER, in_turn, row
from torch import nn

from seedtok import SeedLM
from seedtok.core.processes import keep_freed_memory
from seedtok.lm.decoding import draw_codes
from seedtok.lm.packing import left_pad
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


def draw(model: SeedLM, others: dict[str, nn.Module], prompts: list[str], rounds: int) -> None:
    """Prints how many images' codes `SeedLM` draws in the time in which `generate`, on other models, draws one's."""
    joint, span = model.joint, model.vocabulary.span
    rows = [[*joint.sequence([drawing_prompt(prompt)]), joint.vocabulary.begin] for prompt in prompts]
    ids, mask = left_pad(rows, model.device)
    runs = {"": lambda: draw_codes(joint, [row[:-1] for row in rows])} | {
        name: lambda lm=lm: lm.generate(
            ids, attention_mask=mask, min_new_tokens=span, max_new_tokens=span, do_sample=False,
            pad_token_id=joint.pad_id,
        ) for name, lm in others.items()
    }  # fmt: skip
    seconds = in_turn(runs, rounds)
    for name in others:
        print(row(f"{len(prompts)} at a time, against generate, {name}", len(prompts), seconds[""], seconds[name]))
    for name in others:
        drawn = runs[name]()[:, -span:] - joint.vocabulary.first_code
        print(f"codes equal to those of generate, {name}: {(runs['']() == drawn).double().mean():.1%}")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    model = SeedLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    scenes = unique_scenes("test", 8)
    prompts = [caption(scene) for scene in scenes]
    plain = fold(model.joint)
    model.joint.network.unmerge_adapter()
    beside = joint_lm(model)
    model.joint.network.merge_adapter()
    print(f"drawing 32 codes, {args.dtype}, {args.threads} threads\n{HEADER}")
    for batch in (1, 8):
        draw(model, {"LoRA beside the weights": beside, "plain": plain}, prompts[:batch], args.rounds)
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
