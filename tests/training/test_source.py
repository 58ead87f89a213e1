"""Where samples come from: a general source renders nothing; the mini world's is one source among others."""

import pytest
import torch

from seedtok.core.errors import ConfigError
from seedtok.mini.world.shards import write_scene_shards
from seedtok.mini.world.source import SceneBatch, SceneData, scenes_of
from seedtok.training.config import Data
from seedtok.training.loop import train
from tiny_runs import recipes, tiny


def test_general_data_do_not_fall_back_to_the_mini_world(tmp_path):
    with pytest.raises(ConfigError, match=r"no data to train on: give data\.shards or data\.codes"):
        Data().check()
    config = tiny("vision", tmp_path)
    with pytest.raises(ConfigError, match="no data to train on"):
        train(config.model_copy(update={"data": Data(size=64)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "scenes" not in str(Data.model_fields["validation"].annotation)


@pytest.mark.parametrize("name", recipes())
def test_every_mini_recipe_renders_scenes(name):
    data = recipes()[name]().data
    assert isinstance(data, SceneData)
    data.check()


def test_shards_of_scenes_are_the_scenes_they_were_written_from(tmp_path):
    write_scene_shards(tmp_path, "train", 8, size=64)
    rendered = SceneData(size=64)
    (drawn,) = rendered.first(8, 0, 1)
    batches = SceneData(size=64, shards=tmp_path, validation="scenes").batches(8, 0)
    found = next(batches)
    assert isinstance(drawn, SceneBatch)
    assert isinstance(found, SceneBatch)
    order = [(scenes_of(drawn) or []).index(scene) for scene in scenes_of(found) or []]
    assert sorted(order) == list(range(8))
    for name in ("captions", "canonical"):
        assert getattr(found, name) == [getattr(drawn, name)[i] for i in order]
    assert torch.equal(found.pixels, drawn.pixels[order])
    assert next(Data(size=64, shards=tmp_path, validation=0.1).batches(4, 0)).canonical[0] in drawn.captions
