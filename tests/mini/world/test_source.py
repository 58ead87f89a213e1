"""The varied world as a data source, and as shards."""

import json
from itertools import islice
from pathlib import Path

import torch

from seedtok.mini.world.grammar import same_scene
from seedtok.mini.world.hands import HELD_OUT_HANDS, SEEN_HANDS
from seedtok.mini.world.shards import write_scene_shards
from seedtok.mini.world.source import SceneData, scenes_of


def test_the_varied_world_has_the_same_scenes_drawn_by_seen_hands_in_many_wordings():
    classic, varied = SceneData(size=64), SceneData(size=64, world="varied")
    assert classic.world == "classic"
    told = set()
    for plain, batch in islice(zip(classic.batches(8, 3), varied.batches(8, 3), strict=True), 4):
        scenes, others = scenes_of(batch), scenes_of(plain)
        assert scenes
        assert others
        assert [(s.background, s.things) for s in scenes] == [(s.background, s.things) for s in others]
        assert all(s.look is None for s in others)
        assert {look.hand for s in scenes for look in s.look.things} <= set(SEEN_HANDS)
        assert all(same_scene(text, s) for text, s in zip(batch.captions, scenes, strict=True))
        assert all(batch.right_captions(batch.captions))
        assert not torch.equal(batch.pixels, plain.pixels)
        told |= {
            text.replace(s.things[0].concept, "#").replace(s.background, "%")
            for text, s in zip(batch.captions, scenes, strict=True)
        }
    assert len(told) > 25
    again = next(iter(varied.batches(8, 3)))
    assert torch.equal(again.pixels, next(iter(varied.batches(8, 3))).pixels)


def test_shards_of_unseen_hands_are_read_back(tmp_path: Path):
    write_scene_shards(tmp_path, "test-unseen-hands", 6, size=64, classic=False)
    batch = next(iter(SceneData(shards=tmp_path, size=64).batches(6, 0)))
    scenes = scenes_of(batch)
    assert scenes
    assert {look.hand for s in scenes for look in s.look.things} <= set(HELD_OUT_HANDS)
    assert all(same_scene(text, s) for text, s in zip(batch.captions, scenes, strict=True))
    assert {json.dumps(known["split"]) for known in batch.metadata or []} == {'"test-unseen-hands"'}
