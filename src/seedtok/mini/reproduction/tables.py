"""One table of a reproduction: `python -m seedtok.mini.reproduction.tables DIR TABLE SET COUNT DEVICE`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.core.atomic import atomic_file
from seedtok.core.processes import keep_freed_memory
from seedtok.evaluation.captioning import evaluate_captioning
from seedtok.evaluation.clip_scores import ImageFeatures
from seedtok.evaluation.codebook import evaluate_codebook
from seedtok.evaluation.drawing import evaluate_drawing
from seedtok.evaluation.generation import evaluate_generation
from seedtok.evaluation.readers import PrefixReader, SeedReader, reranking
from seedtok.evaluation.retrieval import evaluate_retrieval
from seedtok.evaluation.retrieval_models import EmbedderRetrieval, load_retrieval_model
from seedtok.evaluation.run import Run
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm.prompts import CAPTIONING
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.evaluation import MiniSet, SceneScorer, answer_floors, load_features, recall_floors
from seedtok.mini.identities import MADE_BY, NAME, identities, remove_others
from seedtok.mini.judge import SceneJudge
from seedtok.mini.parts import result
from seedtok.mini.reproduction import parts
from seedtok.mini.stages.pipelines import LORA_FOLDER
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer


def table_file(out: Path, table: str, name: str) -> Path:
    """Where the scores of a table on a set lie in the folder of a reproduction."""
    return out / "tables" / f"{table}-{name}.json"


class Models:
    """The results of a reproduction's parts, loaded when asked for."""

    def __init__(self, out: Path, device: torch.device) -> None:
        self.out, self.device = out, device

    def lm(self, part: str) -> SeedLM:
        return SeedLM.from_pretrained(result(self.out, part), device=self.device)

    def tokenizer(self) -> SeedTokenizer:
        return SeedTokenizer.from_pretrained(result(self.out, "stage2"), device=self.device)

    def readers(self, paper: str) -> dict[str, Any]:
        """The paper's SEED-OPT, as row `paper`, the one that has also seen questions, and the BLIP-2-style baseline."""
        blip2 = PrefixLM.from_pretrained(result(self.out, "blip2")).to(self.device)
        seed = {row: SeedReader(self.lm(part)) for row, part in ((paper, "stage3b"), ("instructed", "instructed"))}
        return {**seed, "blip2": PrefixReader(blip2)}

    def judges(self, data: MiniSet) -> tuple[ImageFeatures, SceneScorer]:
        judge = SceneJudge.from_pretrained(result(self.out, "judge")).to(self.device)
        return load_features(result(self.out, "eval_clip"), self.device), SceneScorer(data, judge)


def retrieval(models: Models, data: MiniSet, run: Run) -> dict[str, Any]:
    bidirectional = ImageTextEmbedder.from_pretrained(result(models.out, "bidirectional")).to(models.device)
    causal = load_retrieval_model(str(result(models.out, "stage2")), torch.float32, models.device)
    found = evaluate_retrieval({"bidirectional": EmbedderRetrieval(bidirectional), causal.row: causal}, data, run)
    return found | recall_floors(data)


def codebook(models: Models, data: MiniSet, run: Run) -> dict[str, Any]:
    return evaluate_codebook(models.tokenizer(), data, run)


def generation(models: Models, data: MiniSet, run: Run) -> dict[str, Any]:
    tokenizer, whole = models.tokenizer(), result(models.out, "lcm")
    if (whole / LORA_FOLDER).is_dir():
        few_steps = tokenizer.image_decoder.with_lcm_lora(whole / LORA_FOLDER)
    else:  # trained by an earlier version, which exported no LoRA
        few_steps = ImageDecoder.from_pretrained(whole).to(models.device)
    return evaluate_generation(tokenizer, data, run, *models.judges(data), few_steps=few_steps)


def captioning(models: Models, data: MiniSet, run: Run) -> dict[str, Any]:
    readers = reranking(models.readers("seed_opt"), CAPTIONING)
    return evaluate_captioning(readers, data, run, scorer=SceneScorer(data))


def vqa(models: Models, data: MiniSet, run: Run) -> dict[str, Any]:
    """Rows by the names of `seedtok evaluate vqa`: what has seen no question is zero-shot."""
    return evaluate_vqa(models.readers("zero_shot"), data, run) | answer_floors(data)


def drawing(models: Models, data: MiniSet, run: Run) -> dict[str, Any]:
    return evaluate_drawing(models.lm("instructed"), data, run, *models.judges(data))


TABLES = {
    "retrieval": retrieval, "codebook": codebook, "generation": generation, "captioning": captioning, "vqa": vqa,
    "drawing": drawing,
}  # fmt: skip


def main(out: Path, table: str, name: str, count: int, device: str) -> None:
    """Measures one table on one set, and writes its scores; predictions stay beside them.

    Those of other models are removed first.
    """
    began = time.monotonic()
    data = MiniSet(count, every_wording=table == "captioning", name=name, classic=False)
    predictions = table_file(out, table, name).with_suffix("")
    of = identities(out, next(known.needs for known in parts.TABLES if known.name == table))
    remove_others(predictions, of)
    run = Run(predictions, 16 if table == "drawing" else 32, made_by={MADE_BY: of})
    found = TABLES[table](Models(out, torch.device(device)), data, run)
    found |= {"set": name, "count": len(data), "seconds": time.monotonic() - began, NAME: of}
    with atomic_file(table_file(out, table, name)) as temporary:
        temporary.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
