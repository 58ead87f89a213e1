"""What the field's data sets say of a picture, said of a scene: so many captions, or so many questions."""

import io

import numpy as np
from PIL import Image

from seedtok.data import entries
from seedtok.mini.world.balanced import Question
from seedtok.mini.world.captions import caption, wordings
from seedtok.mini.world.drawing import render
from seedtok.mini.world.hands import HELD_OUT_HANDS
from seedtok.mini.world.questions import answer_type, questions
from seedtok.mini.world.scene import Scene

CAPTIONS = {"coco": 5, "flickr30k": 5, "nocaps": 10}  # of a picture
QUESTIONS = {"vqav2": 3, "gqa": 3}  # about a picture
PEOPLE = 10  # answers to a question in VQAv2; here all of them are the right one
PUBLISHED = (*CAPTIONS, *QUESTIONS)


def jpeg(scene: Scene, size: int) -> bytes:
    """The file of a scene's picture, of size x size pixels."""
    file = io.BytesIO()
    Image.fromarray(render(scene, size)).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def captions_of(form: str, scene: Scene, seed: int, number: int) -> tuple[str, ...]:
    """The canonical caption of a scene, then others, some twice where it has fewer; none in sets of questions."""
    order = np.random.default_rng([62, seed, number]).permutation(wordings(scene))
    texts = list(dict.fromkeys([caption(scene), *(caption(scene, int(phrasing)) for phrasing in order)]))
    return tuple(texts[i % len(texts)] for i in range(CAPTIONS.get(form, 0)))


def questions_of(form: str, scene: Scene, seed: int, number: int) -> list[Question]:
    """The questions about a scene; none in sets of captions."""
    return questions(scene, np.random.default_rng([61, seed, number]), QUESTIONS.get(form, 0))


def domain_of(scene: Scene) -> str:
    """NoCaps' domain: whether training saw the hands of all, some or none of a scene's things."""
    hands = [look.hand in HELD_OUT_HANDS for look in scene.look.things] if scene.look else [False]
    return "out-domain" if all(hands) else "near-domain" if any(hands) else "in-domain"


def question_type(text: str) -> str:
    """VQAv2's: how a question begins."""
    known = ("what color is the", "what is", "how many", "where is the", "is there a", "is the")
    return next(start for start in known if text.lower().startswith(start))


def structure_of(question: Question) -> str:
    """GQA's structural type of a question."""
    return "verify" if question.answer in ("yes", "no") else "query"


def gqa_key(number: int, i: int) -> str:
    """The id of question `i` about picture `number` in GQA's files."""
    return f"{201_000_000 + 10 * number + i}"


def entry_of(form: str, scene: Scene, seed: int, number: int) -> entries.Entry:
    """What an evaluation reads of scene `number` from the published files of a form, one of `PUBLISHED`."""
    identity = {"coco": number + 1, "vqav2": number + 1, "gqa": f"n{number}"}.get(form, number)
    asked = []
    for i, question in enumerate(questions_of(form, scene, seed, number)):
        if form == "gqa":
            own = (gqa_key(number, i), question.text, (question.answer,), "", structure_of(question))
        else:
            answer, kind = question.answer, question_type(question.text)
            own = (1000 * (number + 1) + i, question.text, PEOPLE * (answer,), answer_type(answer), kind)
        asked.append(entries.Question(*own))
    domain = domain_of(scene) if form == "nocaps" else ""
    return entries.Entry(
        identity, f"{identity}.jpg", captions_of(form, scene, seed, number), tuple(asked), domain
    )  # fmt: skip
