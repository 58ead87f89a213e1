"""What stages IIIa and IIIb learn of a sample."""

import pytest
import torch

from seedtok.core.errors import ConfigError
from seedtok.lm.base import end_id
from seedtok.lm.seed_lm import SeedLM
from tiny_runs import tiny


@pytest.fixture
def stage(runs):
    return tiny("stage3a", runs).stage.build().eval()


@pytest.fixture
def codes(stage):
    vocabulary = stage.model.vocabulary
    return torch.randint(vocabulary.codes, (vocabulary.span,))


def test_lora_that_a_model_to_go_on_from_would_ignore_is_refused(runs):
    with pytest.raises(ConfigError, match=r"stage\.rank=32, but .* has \d+ and keeps it: set stage\.rank="):
        tiny("stage3b", runs, "stage.rank=32").stage.build()
    tiny("stage3b", runs).stage.build()


@pytest.mark.parametrize("way", ["plain", "merged"])
def test_a_model_without_lora_is_nothing_to_go_on_from(runs, tmp_path, way):
    model = SeedLM.from_pretrained(runs / "stage3a" / "final")
    if way == "plain":
        model.save_plain(tmp_path / "model")
    else:
        model.save_pretrained(tmp_path / "model", merged=True)
    with pytest.raises(ConfigError, match="has no LoRA and visual layers of its own"):
        tiny("stage3b", runs, f"stage.start={tmp_path / 'model'}").stage.build()


def learnt_of(sample):
    ids, learnt = sample
    return [i for i, wanted in zip(ids, learnt, strict=True) if wanted]


def test_of_a_drawing_its_beginning_its_codes_and_that_nothing_follows(stage, codes):
    vocabulary = stage.model.vocabulary
    drawn = vocabulary.code_ids(codes).tolist()
    said = learnt_of(stage.sequence(codes, "a fox", [], draws=True))
    assert said == [vocabulary.begin, *drawn, end_id(stage.model.joint.text_tokenizer)]


@pytest.mark.parametrize(("asked", "answer"), [([], "a fox"), ([("What is it?", "fox")], "fox")])
def test_of_a_text_its_words_and_its_end(stage, codes, asked, answer):
    said = learnt_of(stage.sequence(codes, "a fox", asked, draws=False))
    assert said == [*stage.model.joint.text_ids(f" {answer}"), end_id(stage.model.joint.text_tokenizer)]


def test_of_several_questions_every_answer_and_one_end(stage, codes):
    joint = stage.model.joint
    questions, answers = ["What is it?", "Where is it?"], ["fox", "top"]
    asked = list(zip(questions, answers, strict=True))
    ids, learnt = stage.sequence(codes, "a fox", asked, draws=False)
    text = f"Question: {questions[0]} Short answer. fox Question: {questions[1]} Short answer. top"
    begun = [*joint.start_ids, *joint.image_ids(codes)]
    assert ids == [*begun, *joint.text_ids(text), end_id(joint.text_tokenizer)]
    said = [token for answer in answers for token in joint.text_ids(f" {answer}")]
    assert learnt_of((ids, learnt)) == [*said, end_id(joint.text_tokenizer)]


@pytest.mark.parametrize("most", [1, 3])
def test_as_many_questions_as_are_set(stage, runs, most):
    stage.settings = stage.settings.model_copy(update={"drawing": 0.0, "asking": 1.0, "questions": most})
    rows = stage.packed(next(tiny("stage3a", runs).data.batches(32, 0)))
    mark = stage.model.joint.text_ids(" Question:")[0]
    start = stage.model.joint.text_ids("Question:")[0]
    counts = [
        int(((ids == mark) | (ids == start))[segments == number].sum())
        for ids, segments in zip(rows.ids, rows.segments, strict=True)
        for number in range(1, int(segments.max()) + 1)
    ]
    assert min(counts) == 1
    assert max(counts) == most


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_codes_count_as_much_as_they_weigh(stage, codes, weight):
    stage.settings = stage.settings.model_copy(update={"code_weight": weight})
    rows = stage._pack([stage.sequence(codes, "a fox", [], draws) for draws in (True, False)])
    visual = stage.model.vocabulary.is_visual(rows.targets)
    with torch.no_grad():
        loss = stage.losses(rows)["loss"]
        every = stage.model.joint.loss(rows) * len(rows.targets)
        of_words = stage.model.joint.loss(rows, (~visual).float()) * (~visual).sum()
    expected = (of_words + weight * (every - of_words)) / ((~visual).sum() + weight * visual.sum())
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_of_a_text_alone_what_its_parts_say_and_its_end(stage):
    model = stage.model.joint
    said = learnt_of(
        stage.text_sequence([("A fox.", False), (" Question: What is it? Short answer.", False), (" fox", True)])
    )
    assert said == [*model.text_ids(" fox"), end_id(model.text_tokenizer)]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_replayed_samples_show_no_picture(stage, runs, share):
    stage.settings = stage.settings.model_copy(update={"drawing": 0.0, "replay": share})
    batch = next(tiny("stage3a", runs).data.batches(8, 0))
    rows = stage.packed(batch)
    assert stage.model.vocabulary.is_visual(rows.ids).any() == (share == 0)
    assert rows.predicted.shape[1] > 0
