"""The options that commands of `seedtok evaluate` share."""

from pathlib import Path
from typing import Annotated

import typer

from seedtok.cli.support import DrawingPrecision

TokenizerModel = Annotated[str, typer.Option(help="'mini', a checkpoint folder, or a hub id.")]
RetrievalModel = Annotated[str, typer.Option(help="A SEED tokenizer, an embedder, or transformers' BLIP-2 or CLIP.")]
LanguageModel = Annotated[str, typer.Option(help="'mini', a folder of a SEED language model, or a hub id.")]
ReaderModel = Annotated[str, typer.Option(help="A SEED language model, SEED-LLaMA too, or a BLIP-2 on OPT.")]
DATA = "mini:test"
Data = Annotated[
    str,
    typer.Option(
        metavar="DIR|mini:SET|mini",
        help="What `data prepare` or `data pack` wrote; or scenes: of a set, such as test or test-unseen-hands, for "
        "retrieval also test+near-misses, or as a public data set has them, such as test=coco; or mini, scenes by one "
        "artist on a grid.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where predictions stay; an evaluation that was stopped goes on there."),
]
Count = Annotated[int | None, typer.Option(min=1, help="Pictures, from the first on: all of DIR, 1000 scenes.")]
Scenes = Annotated[int | None, typer.Option(min=1, help="Pictures, from the first on: all of DIR, 20000 scenes.")]
Seed = Annotated[int, typer.Option(min=0, help="Which scenes, and the noise of drawings.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at once.")]
DrawingDtype = Annotated[
    DrawingPrecision | None,
    typer.Option("--drawing-dtype", help="What the image decoder alone computes in, as in `demo`."),
]
Clip = Annotated[
    str | None,
    typer.Option(help="The CLIP that compares pictures: CLIP ViT-L/14, or for scenes the shipped one."),
]
Gill = Annotated[Path | None, typer.Option(metavar="DIR", help="A GILL baseline, which draws from captions too.")]
Describe = Annotated[
    bool, typer.Option("--describe", help="A second row: answers of a SEED model's own caption, without the picture.")
]
Rerank = Annotated[
    bool,
    typer.Option("--rerank", help="A second row: a SEED model's captions, reranked as by `seedtok caption --rerank`."),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL", help="Another model, a row of its own on the same pictures; may be given again."),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="paper, lavis, or a text, with {} where a question goes; by default each model's own."),
]
