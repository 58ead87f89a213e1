"""Images that SEED-OPT draws from captions, compared with those of its diffusion model alone (Figure 5)."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from seedtok.core.text import CLEANED_WORDS
from seedtok.evaluation.clip_scores import ImageFeatures
from seedtok.evaluation.dataset import EvaluationSet, Scorer, check_has
from seedtok.evaluation.drawings import (
    NO_CAPTIONS,
    decoder_settings,
    drawings_in,
    drawn,
    noise_of,
    save_drawings,
    score_drawings,
)
from seedtok.evaluation.predictions import Predictions, Record
from seedtok.evaluation.run import Batch, Run, Task, evaluate
from seedtok.lm.decoding import Sampling
from seedtok.lm.prompts import DRAW, drawing_prompt
from seedtok.lm.seed_lm import SeedLM

SAMPLED = 10  # more spans of codes a caption, at temperature 1, that are checked but not drawn
LM, DIFFUSION = "seed_opt", "diffusion"  # the ways of drawing


def evaluate_drawing(
    lm: SeedLM, data: EvaluationSet, run: Run, clip: ImageFeatures, scorer: Scorer | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the scorer finds in drawings of captions, in percent, and their CLIP similarity to the true picture (x100).

    A picture's first caption is drawn, greedily; the rows of the diffusion model are left out where it draws from image
    embeddings (unCLIP). `invalid_spans` counts those of `spans` pictures, the drawn ones and ten times as many sampled
    at temperature 1, whose codes are not 32 of the codebook. Raises as `evaluate_generation`.
    """
    check_has(data, "captions", "drawing")

    def by_lm(batch: Batch, out: Path) -> list[Record]:
        captions, noise = [entry.captions[0] for entry in batch.entries], noise_of(run.seed, batch.number)
        by_chance = Sampling(1.0, generator=torch.Generator().manual_seed(noise))
        codes = lm.draw_codes(captions)
        sampled = lm.draw_codes([text for text in captions for _ in range(SAMPLED)], by_chance).tolist()
        conditions = lm.seed.generation_embeddings(lm.seed.lookup(codes))
        records = save_drawings(drawn(lm.seed, conditions, noise, dtype), batch.entries, LM, out)
        for place, (record, own) in enumerate(zip(records, codes.tolist(), strict=True)):
            record |= {"codes": own, "sampled": sampled[place * SAMPLED : (place + 1) * SAMPLED]}
        return records

    def by_diffusion(batch: Batch, out: Path) -> list[Record]:
        features = lm.seed.image_decoder.text_features([entry.captions[0] for entry in batch.entries])
        pictures = drawn(lm.seed, features, noise_of(run.seed, batch.number), dtype)
        return save_drawings(pictures, batch.entries, DIFFUSION, out)

    vocabulary = lm.vocabulary
    drawer = {"codebook": lm.seed.codebook_id, "prompt": drawing_prompt("{}", lm.template.draw), **lm.template.entry()}
    if lm.template.draw == DRAW:  # what `drawing_prompt` does
        drawer["text"] = CLEANED_WORDS
    ways = {LM: by_lm, DIFFUSION: by_diffusion} if lm.seed.image_decoder.draws_captions else {LM: by_lm}
    settings = {
        "models": {way: drawer if way == LM else {} for way in ways},
        "decoding": decoder_settings(lm.seed, dtype),
        "span": vocabulary.span,
        "codes": vocabulary.codes,
    }
    score = partial(score_drawing, data=data, clip=clip, scorer=scorer)
    return evaluate(Task("drawing", settings, ways, score, captioned=True), data, run)


def score_drawing(
    predictions: Predictions, data: EvaluationSet, clip: ImageFeatures, scorer: Scorer | None = None
) -> dict[str, Any]:
    """The scores of pictures that `evaluate_drawing` wrote."""
    made, settings = predictions.every(), predictions.settings()
    ways = {way: drawings_in(predictions.folder / way, data) for way in made}
    scores = score_drawings(ways, data, clip, scorer, settings["batch_size"])
    result: dict[str, Any] = {f"{name}_right": share for name, share in scores.right[LM].items()}
    if DIFFUSION in made:
        result |= {f"{name}_right_diffusion": share for name, share in scores.right[DIFFUSION].items()}
        result["clip_similarity_diffusion"] = scores.similarity[DIFFUSION]
    else:
        result["missing"] = {DIFFUSION: NO_CAPTIONS}
    spans = [span for record in made[LM] for span in (record["codes"], *record["sampled"])]
    return result | {
        "clip_similarity": scores.similarity[LM],
        "invalid_spans": sum(not is_span(span, settings["span"], settings["codes"]) for span in spans),
        "spans": len(spans),
        "floors": scores.floors,
        "clip": clip.settings,
    }


def is_span(codes: list[int], length: int, size: int) -> bool:
    """Whether codes are one picture's: so many, each of a codebook of this size."""
    return len(codes) == length and all(0 <= code < size for code in codes)
