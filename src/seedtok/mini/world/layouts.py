"""How far background and places alone go, without the things: a floor of retrieval and of answers."""

import math
from collections import Counter
from collections.abc import Sequence

from seedtok.mini.world.balanced import Question
from seedtok.mini.world.scene import Scene


def layout(scene: Scene) -> tuple[str, frozenset[str]]:
    """What one sees of a scene who does not see what its things are: the background, and which places are taken."""
    return scene.background, frozenset(thing.place for thing in scene.things)


def layout_recalls(scenes: Sequence[Scene], queries: int, captions: int = 1) -> dict[str, float]:
    """Recall@1, 5, 10 both ways and their mean (Table 1), in percent, of one who sees the layout of scenes alone.

    Each scene has `captions` captions, which say its layout; those of one layout come in random order, of which this
    is the mean. The first `queries` scenes, and their captions, are looked for; the others are candidates alone.
    """
    alike = Counter(map(layout, scenes))
    groups = [alike[layout(scene)] for scene in scenes[:queries]]
    found = {}
    for k in (1, 5, 10):
        missed = [math.comb(captions * (group - 1), k) / math.comb(captions * group, k) for group in groups
                  if captions * group >= k]  # fmt: skip
        found[f"i2t_r{k}"] = 100 * (1 - sum(missed) / len(groups))
    for k in (1, 5, 10):
        found[f"t2i_r{k}"] = 100 * sum(min(1, k / group) for group in groups) / len(groups)
    return found | {"r_mean": sum(found.values()) / 6}


def layout_choices(pairs: Sequence[tuple[Scene, Scene]]) -> dict[str, float]:
    """How often, in percent, one chooses right between a scene and its near miss who sees their layout alone.

    Where both have the same layout, that is half of the time.
    """
    right = sum(0.5 if layout(scene) == layout(miss) else 1.0 for scene, miss in pairs)
    share = 100 * right / len(pairs)
    return {"i2t_choice": share, "t2i_choice": share, "pairs": len(pairs)}


def told_layout(question: Question, scene: Scene) -> Question:
    """A question that tells of its scene what the layout says: the background if it asks about that, else the places.

    `blind.blind_answers` of such questions know the layout of pictures, and nothing else of them.
    """
    background, places = layout(scene)
    told = background if "background" in question.text else ", ".join(sorted(places))
    return question._replace(text=f"{told}: {question.text}")
