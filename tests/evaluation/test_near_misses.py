"""Near misses in retrieval: a choice between two, by what they differ in, against one by one."""

import json

import pytest
import torch

from evaluation_sets import StubRetrieval
from seedtok.data.entries import Entry
from seedtok.evaluation.predictions import Predictions
from seedtok.evaluation.retrieval import choices, evaluate_retrieval, near_pairs, score_retrieval
from seedtok.evaluation.run import Run
from seedtok.mini.evaluation import MiniSet


@pytest.fixture
def data() -> MiniSet:
    return MiniSet(6, name="test+near-misses", classic=False, every_wording=True)


class Random(StubRetrieval):
    """Tells every picture and text from every other."""

    def embed(self, pictures, texts):
        keys = [*(hash(picture.tobytes()) for picture in pictures), *map(hash, texts)]
        rows = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(key % 2**31)) for key in keys])
        rows = torch.nn.functional.normalize(rows, dim=-1)
        return {"": rows[: len(pictures)]}, rows[len(pictures) :]


def test_choices_between_a_scene_and_its_near_miss_are_those_made_one_by_one(data, tmp_path):
    model = Random()
    out = tmp_path / "out"
    found = evaluate_retrieval({"stub": model}, data, Run(out, batch_size=4))
    right: dict[str, dict[str, list[bool]]] = {}
    places = {entry.id: place for place, entry in enumerate(data)}
    for entry in list(data)[: data.queries]:
        miss = data[places[entry.near_miss[0]]]
        pictures = [data.picture(places[one.id]) for one in (entry, miss)]
        images, texts = model.embed(pictures, [*entry.captions, *miss.captions])
        cosines, own = images[""] @ texts.T, len(entry.captions)
        kind = right.setdefault(entry.near_miss[1], {"i2t_choice": [], "t2i_choice": []})
        kind["i2t_choice"].append(bool(cosines[0, :own].max() > cosines[0, own:].max()))
        kind["t2i_choice"] += [bool(cosines[0, i] > cosines[1, i]) for i in range(own)]
    assert sum(len(kind["i2t_choice"]) for kind in right.values()) == 6
    for what, kind in right.items():
        row = found[f"stub near miss {what}"]
        assert row == {
            **{name: pytest.approx(100 * sum(one) / len(one)) for name, one in kind.items()},
            "pairs": len(kind["i2t_choice"]),
        }
    again = json.loads(json.dumps(score_retrieval(Predictions(out))))
    assert {name: found[name] for name in again} == again


def test_a_tie_and_no_number_are_no_right_choice():
    similarity, owners = torch.tensor([[1.0, 0.5], [0.2, 1.0]]), torch.arange(2)
    assert choices(similarity, owners, [(0, 1)]) == {"i2t_choice": 100, "t2i_choice": 100, "pairs": 1}
    for value in (1.0, torch.nan):
        for place, name in (((0, 1), "i2t_choice"), ((1, 0), "t2i_choice")):
            other = similarity.clone()
            other[place] = value
            assert choices(other, owners, [(0, 1)])[name] == 0


def test_a_near_miss_that_could_not_be_read_is_no_pair():
    records = [{"image_id": 7, "near_miss": [9, "thing"]}, {"image_id": 8, "near_miss": [7, "swap"]}, {"image_id": 3}]
    assert near_pairs(records) == {"swap": [(1, 0)]}


def test_a_set_without_near_misses_has_no_such_rows():
    assert Entry(1).near_miss is None
    found = evaluate_retrieval({"stub": Random()}, MiniSet(4, classic=False), Run())
    assert not [name for name in found if "near miss" in name]
