"""Normalisation of captions for training."""

import re

MAX_WORDS = 50
CLEANED = 'lower case, without .!"()*#:;~, at most 50 words'  # what `clean_caption` does, for records
_REMOVED = re.compile(r'[.!"()*#:;~]')


def clean_caption(text: str) -> str:
    """A caption in lower case, without `.!"()*#:;~`, with single spaces, cut at 50 words.

    Removed characters become spaces, as in BLIP's caption processor, so that "a dog.a cat" has four words.
    """
    return " ".join(_REMOVED.sub(" ", text.lower()).split()[:MAX_WORDS])
