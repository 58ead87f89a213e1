"""Captions as the paper's training sees them."""

import re

MAX_WORDS = 50
_REMOVED = re.compile(r'[.!"()*#:;~]')


def clean_caption(text: str) -> str:
    """Lower case, without `.!"()*#:;~`, whitespace collapsed, at most 50 words.

    A removed character leaves a gap, as in the BLIP caption processor, so that "a dog.a cat" stays four
    words.
    """
    return " ".join(_REMOVED.sub(" ", text.lower()).split()[:MAX_WORDS])
