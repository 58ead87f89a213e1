"""Sets of scenes by name: what is trained on, and what is tested on."""

from itertools import islice

from seedtok.core.errors import DataError
from seedtok.mini.world.hands import HANDS
from seedtok.mini.world.near_misses import near_misses
from seedtok.mini.world.scene import Scene
from seedtok.mini.world.scenes import CLASSIC, UNSEEN_HANDS, VARIED, Split, World, scene_stream, unique_scenes

NEAR_MISSES, WITH_NEAR_MISSES = "-near-misses", "+near-misses"
SETS: dict[str, tuple[Split, World]] = {
    "train": ("train", VARIED),
    "validation": ("validation", VARIED),
    "test": ("test", VARIED),  # combinations of things and background that no training saw, by hands that it saw
    "test-unseen-hands": ("test", UNSEEN_HANDS),  # the same scenes by hands that no training saw
    "test-all-hands": ("test", World(HANDS)),  # the same scenes by both
}
SET_NAMES = (*SETS, f"test{NEAR_MISSES}", f"test-unseen-hands{NEAR_MISSES}")


def scene_set(name: str, count: int, seed: int = 0, classic: bool = False) -> list[Scene]:
    """`count` scenes of a set: of train, the first of its stream; of others, scenes of different captions.

    NAME-near-misses has, for each scene of NAME in order, one with one thing, place, count or colour changed. With
    `classic`, the same scenes without looks, of all sets but those of unseen hands. Raises DataError for an unknown
    set, and where a set has not as many scenes.
    """
    if name not in SET_NAMES:
        raise DataError(f"no set {name!r}: choose {', '.join(SET_NAMES)}")
    if name.endswith(NEAR_MISSES):
        return near_misses(scene_set(name.removesuffix(NEAR_MISSES), count, seed, classic), seed)
    split, world = SETS[name]
    if classic and world != VARIED:
        raise DataError(f"classic scenes are drawn by OpenMoji alone: {name} is of varied ones")
    world = CLASSIC if classic else world
    return (
        list(islice(scene_stream(split, seed, world=world), count))
        if split == "train"
        else unique_scenes(split, count, seed, world)
    )
