"""Caption scores by pycocoevalcap; a score that cannot be computed here is reported with the reason."""

import re
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from os import devnull
from typing import Any

from seedtok.core.errors import ConfigError

Scores = dict[str, float | None]


def check_installed() -> None:
    """Raises ConfigError where pycocoevalcap is not installed; call it before the work that it is to score."""
    try:
        import pycocoevalcap.bleu.bleu
        import pycocoevalcap.cider.cider
        import pycocoevalcap.rouge.rouge  # noqa: F401
    except ImportError:
        raise ConfigError("captions are scored by pycocoevalcap: pip install 'seedtok[evaluate]'") from None


def caption_scores(said: Sequence[str], right: Sequence[Sequence[str]]) -> tuple[Scores, dict[str, str]]:
    """BLEU-4, METEOR, ROUGE-L, CIDEr and SPICE of captions against their references, x100; and why one is None.

    Captions are tokenised as COCO's are, by the Stanford tokenizer; without Java by a plain rule: lower case, words
    alone. METEOR and SPICE are Java programs, and SPICE fetches its models when first used. Raises ConfigError as
    `check_installed` does.
    """
    check_installed()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    names = ("bleu4", "meteor", "rouge_l", "cider", "spice")
    given, truth = _tokenized(said, right)
    scores: Scores = dict.fromkeys(names)
    missing: dict[str, str] = {}
    if not _has_java():
        missing["coco_tokenizer"] = "needs Java; bleu4, rouge_l and cider are of words alone, in lower case"
    with open(devnull, "w") as nothing, redirect_stdout(nothing):  # they print what they do
        scores["bleu4"] = 100 * float(Bleu(4).compute_score(truth, given, verbose=0)[0][3])
        scores["rouge_l"] = 100 * float(Rouge().compute_score(truth, given)[0])
        scores["cider"] = 100 * float(Cider().compute_score(truth, given)[0])
        for name in ("meteor", "spice"):
            try:
                scores[name] = 100 * _java_score(name, truth, given)
            except _Unavailable as error:
                missing[name] = str(error)
    return scores, missing


class _Unavailable(Exception):
    """Why a metric cannot run here."""


def _java_score(name: str, truth: dict[int, list[str]], given: dict[int, list[str]]) -> float:
    if not _has_java():
        raise _Unavailable("needs Java")
    try:
        scorer: Any
        if name == "meteor":
            from pycocoevalcap.meteor.meteor import Meteor

            scorer = Meteor()
        else:
            from pycocoevalcap.spice.spice import Spice

            scorer = Spice()
        return float(scorer.compute_score(truth, given)[0])
    except Exception as error:  # of a program that another started, or of its models' download: of any kind
        reason = " ".join(str(error).split())[:120]
        raise _Unavailable(f"could not run ({type(error).__name__}: {reason})") from None


def _tokenized(
    said: Sequence[str], right: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    # a caption is one line: the Stanford tokenizer's lines are paired with captions by their places
    given = {i: [_line(text)] for i, text in enumerate(said)}
    truth = {i: [_line(text) for text in texts] for i, texts in enumerate(right)}
    if not _has_java():
        plain = [{i: [_words(t) for t in texts] for i, texts in side.items()} for side in (given, truth)]
        return plain[0], plain[1]
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    as_coco = [{i: [{"caption": t} for t in texts] for i, texts in side.items()} for side in (given, truth)]
    tokenizer = PTBTokenizer()
    return tokenizer.tokenize(as_coco[0]), tokenizer.tokenize(as_coco[1])


@cache
def _has_java() -> bool:
    """Whether Java runs: some systems have a command of that name that only says how to install it."""
    try:
        return subprocess.run(["java", "-version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _line(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))
