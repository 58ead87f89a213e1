"""Captions that are exactly one of a picture's own, for a data set of one's own: no metric that likes near misses."""

from collections.abc import Sequence

from PIL import Image

from seedtok.data.text import clean_caption
from seedtok.evaluation.dataset import Counts, EvaluationSet


class ExactCaptions:
    """A scorer that counts captions equal to one of the picture's, after `clean_caption`; it judges no drawings."""

    def __init__(self, data: EvaluationSet) -> None:
        self.data = data

    def score_captions(self, captions: Sequence[str], indices: Sequence[int]) -> Counts:
        right = [
            clean_caption(text) in map(clean_caption, self.data[index].captions)
            for text, index in zip(captions, indices, strict=True)
        ]
        return {"exact": (sum(right), len(right))}

    def score_drawings(self, drawings: Sequence[Image.Image], indices: Sequence[int]) -> Counts:
        return {}
