"""How captions are written in training, and names in lines of text."""

import re

MAX_WORDS = 50
CLEANED_WORDS = 'lower case, without .!"()*#:;~'  # what `clean_words` and `clean_caption` do, for records
CLEANED = f"{CLEANED_WORDS}, at most {MAX_WORDS} words"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REMOVED = re.compile(r'[.!"()*#:;~]')


def clean_caption(text: str) -> str:
    """A caption in lower case, without `.!"()*#:;~`, with single spaces, cut at 50 words.

    Removed characters become spaces, as in BLIP's caption processor, so that "a dog.a cat" has four words.
    """
    return " ".join(clean_words(text)[:MAX_WORDS])


def clean_words(text: str) -> list[str]:
    """All words of a text as `clean_caption` writes them."""
    return _REMOVED.sub(" ", text.lower()).split()


def one_line(text: str) -> str:
    """A text with its control characters as escapes, such as "\\n" and "\\t", so that it is one field of one line."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
