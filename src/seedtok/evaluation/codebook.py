"""How much of the codebook is in use, and how far codes in bfloat16 agree with those in float32."""

import copy
from pathlib import Path
from typing import Any

import torch

from seedtok.evaluation.dataset import EvaluationSet
from seedtok.evaluation.predictions import Predictions, Record
from seedtok.evaluation.preprocessing import stretched
from seedtok.evaluation.run import Batch, Make, Run, Task, evaluate
from seedtok.tokenizer.codebook import codebook_usage
from seedtok.tokenizer.seed import SeedTokenizer

COMPARED = 1000  # pictures whose codes are made in bfloat16 as well
NAME = "codes"  # of the predictions


def evaluate_codebook(tokenizer: SeedTokenizer, data: EvaluationSet, run: Run) -> dict[str, Any]:
    """Codes used and their perplexity over a set; agreement of dtypes, in percent, on its first pictures.

    The predictions are the codes of each picture.
    """
    settings = {
        "models": {NAME: {"preprocessing": stretched(tokenizer.config.embedder.vision.square)}},
        "codebook": tokenizer.codebook_id,
        "size": tokenizer.config.codebook.size,
    }
    return evaluate(Task("codebook", settings, {NAME: _encoder(tokenizer)}, score_codes), data, run)


def score_codes(predictions: Predictions) -> dict[str, Any]:
    """The use of the codebook by codes that `evaluate_codebook` wrote."""
    size, records = predictions.settings()["size"], predictions.read(NAME)
    counts = torch.bincount(torch.tensor([record["codes"] for record in records]).flatten(), minlength=size)
    usage = codebook_usage(counts)
    pairs = [(record["codes"], record["bfloat16"]) for record in records if "bfloat16" in record]
    agree = [code == other for codes, others in pairs for code, other in zip(codes, others, strict=True)]
    return {
        "size": size,
        "used": usage.used,
        "perplexity": usage.perplexity,
        "images": len(records),
        "bfloat16_agreement": 100 * sum(agree) / len(agree) if agree else None,
    }


def _encoder(tokenizer: SeedTokenizer) -> Make:
    half = copy.deepcopy(tokenizer).to(torch.bfloat16)

    def make(batch: Batch, _: Path) -> list[Record]:
        codes = tokenizer.encode_pixels(tokenizer.pixels(batch.pictures)).tolist()
        made = [{"image_id": entry.id, "codes": own} for entry, own in zip(batch.entries, codes, strict=True)]
        if batch.indices[0] < COMPARED:
            for record, others in zip(made, half.encode_pixels(half.pixels(batch.pictures)).tolist(), strict=True):
                record["bfloat16"] = others
        return made

    return make
