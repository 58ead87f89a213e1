"""Words that a model has never seen, where its text tokenizer says which those are.

A model of a small world spells what it does not know letter by letter and draws or answers something else. Its text
tokenizer lists the words it was made for as "known_words" in tokenizer_config.json. One without that list, such as any
pretrained model's, is never warned of.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from seedtok.core.errors import SeedTokWarning

KNOWN_WORDS = "known_words"


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The words of texts that a text tokenizer's list lacks, each once, in their order; none without a list."""
    known = tokenizer.init_kwargs.get(KNOWN_WORDS)
    if not isinstance(known, list):
        return []
    is_known = set(known).__contains__
    words = dict.fromkeys(word for text in texts for word in re.findall(r"\w+", text))
    return [word for word in words if not is_known(word)]


def warn_of_unknown_words(tokenizer: Any, texts: Sequence[str]) -> None:
    """One SeedTokWarning for all of a call's words that the model has never seen, if there are any."""
    if words := unknown_words(tokenizer, texts):
        warnings.warn(
            f"words this model has never seen, so it does not know what they mean: {', '.join(words)}",
            SeedTokWarning,
            stacklevel=3,
        )
