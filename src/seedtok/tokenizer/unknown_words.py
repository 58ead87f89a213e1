"""Warnings of words that a model was not trained on, where its text tokenizer lists the known ones.

A model with a small vocabulary tokenizes unknown words letter by letter, and draws or answers something unrelated. Its
text tokenizer lists the known words under "known_words" in tokenizer_config.json. For text tokenizers without that
list, such as those of pretrained models, there are no warnings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from seedtok.core.notices import warn

KNOWN_WORDS = "known_words"


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The words of texts that are not in the list of a text tokenizer, each once, in order; none without a list."""
    known = tokenizer.init_kwargs.get(KNOWN_WORDS)
    if not isinstance(known, list):
        return []
    is_known = set(known).__contains__
    words = dict.fromkeys(word for text in texts for word in re.findall(r"\w+", text))
    return [word for word in words if not is_known(word)]


def warn_of_unknown_words(tokenizer: Any, texts: Sequence[str]) -> None:
    """Emits one SeedTokWarning that names the unknown words of texts, if there are any."""
    if words := unknown_words(tokenizer, texts):
        warn(f"words that this model was not trained on, and that its output may ignore: {', '.join(words)}")
