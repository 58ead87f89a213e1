"""What an evaluation set says of a picture, and of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """A question about a picture, with the right answers: ten people's in VQAv2, one in GQA.

    `answer_type` is VQAv2's "yes/no", "number" or "other"; `kind` is its question type, or what else a data set calls
    the sort of question. Both are "" where a data set has none.
    """

    id: int | str
    text: str
    answers: tuple[str, ...]
    answer_type: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Entry:
    """A picture's id in its data set, its file's name, and what is known of it; `domain` is NoCaps', "" elsewhere.

    Without `is_query`, it is in retrieval a candidate alone. `near_miss` has the id of an entry that differs from it in
    one respect, and in what.
    """

    id: int | str
    image: str = ""
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    domain: str = ""
    is_query: bool = True
    near_miss: tuple[int | str, str] | None = None


@dataclass(frozen=True)
class SetInfo:
    """What an evaluation set is.

    `counts` has its pictures, captions and questions, `published` what its publisher counts, as far as that is known;
    `missing` pictures were not there when it was prepared. `fingerprint` tells its annotations from others.
    `answer_keys` name question and answer in the results file that the publisher's own evaluation takes.
    """

    name: str
    split: str
    fingerprint: str
    counts: Mapping[str, int]
    published: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0
    answer_keys: tuple[str, str] = ("question_id", "answer")
