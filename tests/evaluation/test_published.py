"""Scenes through the publishers' files and `data prepare` score, to the last digit, what the scenes themselves do."""

import json
from pathlib import Path
from typing import Any

import pytest

from seedtok.core.errors import DataError
from seedtok.data.prepared import PreparedSet, prepare
from seedtok.mini.evaluation import PublishedSet
from seedtok.mini.world.captions import caption
from seedtok.mini.world.export import export_scenes
from seedtok.mini.world.near_misses import changed, near_misses
from seedtok.mini.world.sets import scene_set

COUNT = 5
TABLES = [
    ("retrieval", "coco"), ("retrieval", "flickr30k"), ("generation", "coco"), ("captioning", "coco"),
    ("captioning", "nocaps"), ("vqa", "vqav2"), ("vqa", "gqa"),
]  # fmt: skip
UNLIKE = ("settings", "counts", "hash", "seconds", "blind_prior")  # what a result says of the set, not of the model


def through_files(form: str, folder: Path) -> Path:
    """A prepared set of `COUNT` scenes by all hands."""
    made = export_scenes(scene_set("test-all-hands", COUNT, 3), folder / "files", form, "test", seed=3).published
    prepare(form, folder / "files" / made.annotations, folder / "files" / made.images, made.split, folder / "set")
    return folder / "set"


def scores(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in UNLIKE}


@pytest.mark.slow
@pytest.mark.parametrize(("table", "form"), TABLES)
def test_a_table_is_the_same_through_the_files(
    table, form, tiny_tokenizer, tiny_lm, small_clip, no_java, cli, tmp_path
):
    folder = through_files(form, tmp_path)
    more = {"retrieval": [], "generation": ["--clip", small_clip]}.get(table, ["--beams", 2])
    model = tiny_tokenizer if table in ("retrieval", "generation") else tiny_lm
    arguments = ["evaluate", table, "--model", model, "--batch-size", 2, "--seed", 3, "--json", *more]
    found = []
    for data in (folder, f"mini:test-all-hands={form}"):
        code, out, error = cli(*arguments, "--data", data, "--count", COUNT)
        assert (code, error) == (0, "")
        found.append(json.loads(out))
    files, scenes = map(scores, found)
    for row in files:
        assert same(files[row], scenes[row]), row


def same(own: Any, other: Any) -> bool:
    """Whether all that one result has is so in another, which may have more: what the judges of scenes find."""
    if isinstance(own, dict):
        return all(name in other and same(value, other[name]) for name, value in own.items())
    return own == other


@pytest.mark.parametrize("form", ["coco", "flickr30k", "nocaps", "vqav2", "gqa"])
def test_entries_are_those_of_the_files(form, tmp_path):
    files, scenes = PreparedSet(through_files(form, tmp_path)), PublishedSet(form, COUNT, 3, "test-all-hands")
    assert [(e.id, e.captions, e.questions, e.domain) for e in files] == [
        (e.id, e.captions, e.questions, e.domain) for e in scenes
    ]
    assert all(files.picture(i).tobytes() == scenes.picture(i).tobytes() for i in range(COUNT))
    assert files.info.answer_keys == scenes.info.answer_keys
    assert {k: v for k, v in scenes.info.counts.items() if v} == {k: v for k, v in files.info.counts.items() if v}


def test_near_misses_are_candidates_alone():
    data = PublishedSet("coco", 3, name="test+near-misses")
    assert len(data) > 3
    assert [entry.is_query for entry in data] == [index < 3 for index in range(len(data))]
    places = {entry.id: place for place, entry in enumerate(data)}
    for index, miss in enumerate(near_misses(data.scenes[:3])):
        of, what = data[index].near_miss
        assert caption(data.scenes[places[of]]) == caption(miss)
        assert what == changed(data.scenes[index], miss)
    assert not any(entry.near_miss for entry in list(data)[3:])


def test_an_unknown_format_is_refused(cli):
    with pytest.raises(DataError, match="no format 'voc': choose coco"):
        PublishedSet("voc", 3)
    code, _, error = cli("evaluate", "retrieval", "--data", "mini:test=voc")
    assert code == 2
    assert "no format 'voc'" in error
