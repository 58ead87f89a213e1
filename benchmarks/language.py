"""Drawing by `SeedLM` beside the same model through transformers' `generate`; captions in batches of 1, 8 and 32.

`generate` computes the logits of the whole vocabulary at each step and draws one code at a time: with LoRA beside the
LM's weights, as peft loads it, or on the plain language model (`lm.plain.fold`). Captions are compared with `generate`
on the same LM and batches. With `--part spans`, how many sampled images are no span of codes.

    python benchmarks/language.py [--threads 2] [--model mini] [--dtype float32] [--rounds 5] [--json FILE]
    python benchmarks/language.py --part spans [--spans 10000] [--model FOLDER --tokenizer FOLDER]
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from measuring import Row, arguments, compared, gemm_limit, in_turn, report
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seedtok import SeedLM
from seedtok.core.processes import keep_freed_memory
from seedtok.evaluation.drawing import is_span
from seedtok.lm.decoding import Sampling, draw_codes
from seedtok.lm.packing import left_pad
from seedtok.lm.plain import fold
from seedtok.lm.prompts import CAPTION, CAPTIONING, drawing_prompt
from seedtok.lm.texts import complete
from seedtok.mini.world.scenes import VARIED, caption, unique_scenes
from seedtok.mini.world.source import to_batch

AT_ONCE = 100  # images that are sampled together


class Joint(nn.Module):
    """The visual head after the LM's own, as one head of the whole vocabulary."""

    def __init__(self, text: nn.Module, visual: nn.Module):
        super().__init__()
        self.text, self.visual = text, visual

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.text(states), self.visual(states)], dim=-1)


def joint_lm(model: SeedLM) -> Any:
    """The LM, its LoRA in place, with text and codes in one embedding table and under one head."""
    assert model.joint.adapter is not None
    lm: Any = copy.deepcopy(model.joint.lm)
    table = model.joint.embed(torch.arange(model.vocabulary.size)).detach()
    lm.lm_head = Joint(lm.lm_head, model.joint.adapter.visual_head)
    lm.set_input_embeddings(nn.Embedding.from_pretrained(table))
    lm.config.vocab_size = lm.generation_config.vocab_size = len(table)
    return lm.eval()


def drawing_rows(model: SeedLM, others: dict[str, Any], prompts: list[str], rounds: int) -> Iterator[Row]:
    """How many images' codes `SeedLM` draws in the time in which `generate`, on other models, draws one's."""
    joint, span, count = model.joint, model.vocabulary.span, len(prompts)
    sequences = [joint.sequence([drawing_prompt(prompt)]) for prompt in prompts]
    ids, mask = left_pad([[*sequence, joint.vocabulary.begin] for sequence in sequences], model.device)
    runs: dict[str, Callable[[], torch.Tensor]] = {"": lambda: draw_codes(joint, sequences)} | {
        name: lambda lm=lm: lm.generate(
            ids, attention_mask=mask, min_new_tokens=span, max_new_tokens=span, do_sample=False,
            pad_token_id=joint.pad_id,
        )[:, -span:] - joint.vocabulary.first_code for name, lm in others.items()
    }  # fmt: skip
    seconds, codes = in_turn(runs, rounds), runs[""]()
    with FlopCounterMode(display=False) as counter:
        runs[""]()
    limit = gemm_limit(model.joint.lm.dtype) * sorted(seconds[""])[rounds // 2]
    for name in others:
        equal = (codes == runs[name]()).double().mean()
        yield compared(
            f"draw, batch {count}", f"generate, {name}", count, seconds[""], seconds[name],
            {1: 2.5, 8: 2}.get(count), counter.get_total_flops() / limit, f"{equal:.1%} of codes equal to generate's",
        )  # fmt: skip


def caption_rows(model: SeedLM, rounds: int) -> Iterator[Row]:
    codes = model.seed.encode(to_batch(unique_scenes("test", 128, world=VARIED), 128).pixels)
    sequences = [model.joint.sequence([image, CAPTION]) for image in codes]
    by_generate = replace(CAPTIONING, generate_options={"use_cache": True})  # any option of its own, and it decodes
    for size in (1, 8, 32):
        runs = {
            name: lambda how=how, size=size: complete(model.joint, sequences, how, size)
            for name, how in (("", CAPTIONING), ("generate", by_generate))
        }
        seconds = in_turn(runs, rounds)
        yield compared(f"captions, 5 beams, batch {size}", "generate", len(codes), seconds[""], seconds["generate"])


def span_row(model: SeedLM, prompts: list[str], count: int) -> Row:
    """How many of so many images, sampled at temperature 1, are not 32 codes: ours, and `generate`'s on the same model.

    `generate` samples from the whole vocabulary. That it ends an image after 32 codes is counted apart: in SEED-OPT the
    end is appended, and not learnt.
    """
    joint, vocabulary = model.joint, model.vocabulary
    plain: Any = joint.lm if joint.adapter is None else fold(joint)
    invalid, theirs, endless = 0, 0, 0
    torch.manual_seed(0)
    for start in range(0, count, AT_ONCE):
        drawn = [prompts[i % len(prompts)] for i in range(start, min(start + AT_ONCE, count))]
        codes = model.draw_codes(drawn, Sampling(1.0))
        invalid += sum(not is_span(row, vocabulary.span, vocabulary.codes) for row in codes.tolist())
        sequences = [[*model.sequence([drawing_prompt(text, model.template.draw)]), vocabulary.begin] for text in drawn]
        ids, mask = left_pad(sequences, model.device)
        out = plain.generate(
            ids, attention_mask=mask, min_new_tokens=vocabulary.span + 1, max_new_tokens=vocabulary.span + 1,
            do_sample=True, top_k=0, pad_token_id=joint.pad_id,
        )[:, ids.shape[1] :]  # fmt: skip
        inside = out[:, :-1] - vocabulary.first_code
        theirs += int((~((inside >= 0) & (inside < vocabulary.codes)).all(1)).sum())
        endless += int((out[:, -1] != vocabulary.end).sum())
    note = (
        f"{invalid:,} of {count:,} are not {vocabulary.span} codes; by generate {theirs:,}, and {endless:,} do not end "
        "after them"
    )
    return Row("sampled images", "generate over the whole vocabulary", note=note)


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--part", choices=("drawing", "captions", "spans"), help="that alone")
    parser.add_argument("--tokenizer", help="the image tokenizer, where the model names none")
    parser.add_argument("--spans", type=int, default=10_000)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    model = SeedLM.from_pretrained(args.model, seed=args.tokenizer, dtype=getattr(torch, args.dtype))
    prompts = [caption(scene) for scene in unique_scenes("test", 8, world=VARIED)]
    rows: list[Row] = []
    if args.part == "spans":
        rows.append(span_row(model, prompts, args.spans))
    if args.part in (None, "drawing"):
        plain = fold(model.joint)
        network: Any = model.joint.network
        network.unmerge_adapter()
        others = {"merged": plain, "LoRA beside the weights": joint_lm(model)}
        network.merge_adapter()
        for batch in (1, 8):
            rows += drawing_rows(model, others, prompts[:batch], args.rounds)
    if args.part in (None, "captions"):
        rows += caption_rows(model, args.rounds)
    report(f"the language model, {args.dtype}, {args.threads} threads", rows, args.json)


if __name__ == "__main__":
    main()
