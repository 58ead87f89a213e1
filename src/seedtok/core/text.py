"""How captions are written in training."""

import re

MAX_WORDS = 50
CLEANED_WORDS = 'lower case, without .!"()*#:;~'  # what `clean_words` and `clean_caption` do, for records
CLEANED = f"{CLEANED_WORDS}, at most {MAX_WORDS} words"
_REMOVED = re.compile(r'[.!"()*#:;~]')


def clean_caption(text: str) -> str:
    """A caption in lower case, without `.!"()*#:;~`, with single spaces, cut at 50 words.

    Removed characters become spaces, as in BLIP's caption processor, so that "a dog.a cat" has four words.
    """
    return " ".join(clean_words(text)[:MAX_WORDS])


def clean_words(text: str) -> list[str]:
    """All words of a text as `clean_caption` writes them."""
    return _REMOVED.sub(" ", text.lower()).split()
