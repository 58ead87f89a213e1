"""`seedtok evaluate`: Tables 1 to 3, and the codebook's health, on the mini world or on any prepared data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from seedtok.cli.evaluate_options import (
    DATA,
    AsJson,
    BatchSize,
    Beside,
    Clip,
    Count,
    Data,
    Describe,
    DrawingDtype,
    Gill,
    LanguageModel,
    Out,
    Prompt,
    ReaderModel,
    Rerank,
    RetrievalModel,
    Scenes,
    Seed,
    TokenizerModel,
)
from seedtok.cli.evaluate_support import (
    Given,
    GivenLM,
    answers_floors,
    drawing_judges,
    evaluation_set,
    few_steps_by,
    gill_features,
    identified,
    is_scenes,
    place_of,
    readers_by_row,
    report,
    retrieval_floors,
    scene_scorer,
    with_beside,
    with_others,
)
from seedtok.cli.lm import Base, Beams, Chat, Quantize, Tokenizer
from seedtok.cli.support import Device, Dtype, Precision, drawing_dtype, load_tokenizer, quiet
from seedtok.cli.tokenizer import LcmLora
from seedtok.core.hub import MINI

app = typer.Typer(
    help="Measure a model: on test scenes that no training saw, or on what `seedtok data prepare` wrote.",
    no_args_is_help=True,
)


@app.command()
def retrieval(
    model: RetrievalModel = MINI,
    beside: Beside = None,
    data: Data = DATA,
    out: Out = None,
    count: Count = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Table 1: recall of captions by pictures and back, from embeddings and from codes; of scenes, the floor too."""
    quiet(loading=True)
    import torch

    from seedtok.evaluation.retrieval import evaluate_retrieval, warn_of_ties
    from seedtok.evaluation.retrieval_models import load_retrieval_model

    where, kind, others = place_of(device), getattr(torch, dtype.value), beside or []
    found = evaluation_set(data, count or 1000, count, seed)
    warn_of_ties(found)
    chosen = load_retrieval_model(model, kind, where)
    models = with_others({chosen.row: chosen}, others, lambda name: load_retrieval_model(name, kind, where))
    record = with_beside({"model": identified(model), "dtype": dtype.value}, others, "tokenizer")
    given = Given(model, out, batch_size, seed, record)

    def measured() -> dict[str, Any]:
        result = evaluate_retrieval(models, found, given.run)
        return result | retrieval_floors(found) if result and is_scenes(data) else result

    report(measured, given, found, as_json)


@app.command()
def generation(
    model: TokenizerModel = MINI,
    data: Data = DATA,
    out: Out = None,
    gill: Gill = None,
    clip: Clip = None,
    count: Count = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 16,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    drawing: DrawingDtype = None,
    lcm_lora: LcmLora = None,
) -> None:
    """Table 2: drawings from captions and from codes, beside the real picture; with an LCM-LoRA in few steps too."""
    quiet(loading=True)
    where = place_of(device)
    found = evaluation_set(data, count or 1000, count, seed)
    tokenizer = load_tokenizer(model, dtype.value, str(where))
    from seedtok.evaluation.generation import evaluate_generation

    judges, drawn_in = drawing_judges(data, found, clip, where), drawing_dtype(drawing, where)
    others, made_by = gill_features(gill, where)
    few_steps, in_few = few_steps_by(lcm_lora, tokenizer)
    given = Given(model, out, batch_size, seed, {"model": identified(model), "dtype": dtype.value, **made_by, **in_few})
    how = (*judges, drawn_in, others, few_steps)
    report(lambda: evaluate_generation(tokenizer, found, given.run, *how), given, found, as_json)


@app.command()
def codebook(
    model: TokenizerModel = MINI,
    data: Data = DATA,
    out: Out = None,
    count: Scenes = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """How many of its codes a tokenizer uses, and how evenly."""
    quiet(loading=True)
    tokenizer = load_tokenizer(model, dtype.value, str(place_of(device)))
    found = evaluation_set(data, count or 20_000, count, seed)  # last: so many scenes take a while
    from seedtok.evaluation.codebook import evaluate_codebook

    given = Given(model, out, batch_size, seed, {"model": identified(model), "dtype": dtype.value})
    report(lambda: evaluate_codebook(tokenizer, found, given.run), given, found, as_json)


@app.command()
def captioning(
    model: ReaderModel = MINI,
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    beside: Beside = None,
    data: Data = DATA,
    out: Out = None,
    prompt: Prompt = None,
    rerank: Rerank = False,
    beams: Beams = 5,
    count: Count = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Table 3: captions, by pycocoevalcap; of scenes, also by whether they name all of one right."""
    quiet(loading=True)
    from seedtok.evaluation.captioning import evaluate_captioning
    from seedtok.evaluation.captions import check_installed
    from seedtok.evaluation.prompts import prompts_named
    from seedtok.evaluation.readers import reranking
    from seedtok.lm.prompts import CAPTIONING

    check_installed()
    prompts = prompts_named(prompt)
    found = evaluation_set(data, count or 1000, count, seed, every_wording=True)
    others = beside or []
    lm = GivenLM(model, base, tokenizer, template, quantize, dtype)
    decoding, scorer = replace(CAPTIONING, num_beams=beams), scene_scorer(found) if is_scenes(data) else None
    readers = readers_by_row(lm, place_of(device), others)
    if rerank:
        readers = reranking(readers, decoding)
    given = Given(model, out, batch_size, seed, with_beside(lm.record, others, "lm"))
    report(lambda: evaluate_captioning(readers, found, given.run, prompts, decoding, scorer), given, found, as_json)


@app.command()
def vqa(
    model: ReaderModel = MINI,
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    beside: Beside = None,
    data: Data = DATA,
    out: Out = None,
    prompt: Prompt = None,
    describe: Describe = False,
    beams: Beams = 5,
    count: Count = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Table 3: answers to questions, by VQAv2's accuracy and type of answer, and by GQA's exact match."""
    quiet(loading=True)
    from seedtok.evaluation.prompts import prompts_named
    from seedtok.evaluation.readers import DescribingReader, with_second
    from seedtok.evaluation.vqa import evaluate_vqa
    from seedtok.lm.prompts import ANSWERING

    prompts = prompts_named(prompt)
    found = evaluation_set(data, count or 1000, count, seed)
    others = beside or []
    lm = GivenLM(model, base, tokenizer, template, quantize, dtype)
    readers = readers_by_row(lm, place_of(device), others, is_scenes(data))
    if describe:
        readers = with_second(readers, "describing", DescribingReader)
    given = Given(model, out, batch_size, seed, with_beside(lm.record, others, "lm"))

    def measured() -> dict[str, Any]:
        result = evaluate_vqa(readers, found, given.run, prompts, replace(ANSWERING, num_beams=beams))
        return result | answers_floors(found) if result and is_scenes(data) else result

    report(measured, given, found, as_json)


@app.command()
def drawing(
    model: LanguageModel = MINI,
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    data: Data = DATA,
    out: Out = None,
    clip: Clip = None,
    count: Count = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 16,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    drawing: DrawingDtype = None,
) -> None:
    """Pictures that the language model draws of captions, beside the diffusion model's own."""
    quiet(loading=True)
    where = place_of(device)
    found = evaluation_set(data, count or 1000, count, seed)
    given_lm = GivenLM(model, base, tokenizer, template, quantize, dtype)
    lm = given_lm.load(where)
    from seedtok.evaluation.drawing import evaluate_drawing

    judges, drawn_in = drawing_judges(data, found, clip, where), drawing_dtype(drawing, where)
    given = Given(model, out, batch_size, seed, given_lm.record)
    report(lambda: evaluate_drawing(lm, found, given.run, *judges, drawn_in), given, found, as_json)


@app.command()
def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", show_default=False,
            help="The --out of an evaluation; captions or answers as COCO's, VQAv2's or GQA's results files; or a "
            "folder of pictures, each named by an id or a file of the data set.",
        ),
    ],
    data: Data = DATA,
    clip: Clip = None,
    count: Count = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Score predictions without the model: again, or those that other programs made."""
    quiet(loading=True)
    from seedtok.evaluation.score import Judges, kind_of_predictions, score_predictions

    where, kind = place_of(device), kind_of_predictions(predictions)
    found = evaluation_set(data, count or 1000, count, seed, every_wording=kind in ("captioning", "captions"))
    judges = Judges(device=where)
    if kind in ("generation", "drawing", "pictures"):
        judges = Judges(*drawing_judges(data, found, clip, where), device=where)
    elif is_scenes(data):
        judges = Judges(scorer=scene_scorer(found), device=where)
    given = Given(str(predictions), None, 1, seed, {})
    report(lambda: score_predictions(predictions, found, judges), given, found, as_json)
