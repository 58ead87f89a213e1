"""The hands that draw the mini world's concepts: open emoji sets, by which artist and of which licence.

Attribution and licence texts: `licenses/` beside this file.
"""

SEEN_HANDS: tuple[str, ...] = (
    "openmoji", "openmoji-black", "noto", "noto-v1", "fluent-flat", "fluent", "fluent-high-contrast", "emojione-v1",
)  # fmt: skip
HELD_OUT_HANDS: tuple[str, ...] = ("twemoji", "emojione")  # no training sees them
HANDS = SEEN_HANDS + HELD_OUT_HANDS

# what a set has no drawing of, mostly because it is older than the emoji
_SINCE_2018 = """
flamingo giraffe jellyfish lobster parrot peacock swan broccoli coconut cupcake onion pretzel chair kite ladder magnet
"""
_SINCE_2015 = """
bat butterfly crab duck fox gorilla lion owl scorpion unicorn avocado carrot cheese croissant egg taco drum robot
umbrella
"""
MISSING: dict[str, frozenset[str]] = {
    "noto-v1": frozenset(_SINCE_2018.split()),
    "emojione": frozenset(_SINCE_2018.split()),
    "emojione-v1": frozenset((_SINCE_2018 + _SINCE_2015).split()),
}


def hands_of(concept: str, hands: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the hands that draw a concept."""
    return tuple(hand for hand in hands if concept not in MISSING.get(hand, ()))
