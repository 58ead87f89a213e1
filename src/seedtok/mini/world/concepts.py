"""The vocabulary of the mini world: OpenMoji icons by English name, background colours and named places."""

# English noun -> (plural, the emoji whose OpenMoji drawing shows it)
_LISTS = """
bat 🦇, bear 🐻, bee 🐝, bird 🐦, butterfly 🦋, cat 🐈, chicken 🐔, cow 🐄, crab 🦀, crocodile 🐊,
dog 🐕, dolphin 🐬, duck 🦆, elephant 🐘, fish 🐟 fish, flamingo 🦩, fox 🦊, frog 🐸, giraffe 🦒, gorilla 🦍,
horse 🐎, jellyfish 🪼 jellyfish, koala 🐨, ladybug 🐞, lion 🦁, lobster 🦞,
monkey 🐒, octopus 🐙, owl 🦉, panda 🐼, parrot 🦜, peacock 🦚, penguin 🐧, pig 🐖, rabbit 🐇,
rooster 🐓, scorpion 🦂, sheep 🐑 sheep, snail 🐌, snake 🐍, spider 🕷, swan 🦢,
turtle 🐢, unicorn 🦄, whale 🐳,
apple 🍎, avocado 🥑, banana 🍌, broccoli 🥦 broccoli, burger 🍔, cake 🎂, candy 🍬, carrot 🥕, cheese 🧀 cheeses,
coconut 🥥, cookie 🍪, croissant 🥐,
cupcake 🧁, donut 🍩, egg 🥚, eggplant 🍆, lemon 🍋, lollipop 🍭, mushroom 🍄, onion 🧅,
peach 🍑, pear 🍐, pineapple 🍍, pizza 🍕, pretzel 🥨, strawberry 🍓, taco 🌮, tomato 🍅 tomatoes, watermelon 🍉,
airplane ✈, ambulance 🚑, bicycle 🚲, bus 🚌, car 🚗, helicopter 🚁, rocket 🚀, sailboat ⛵,
tractor 🚜, train 🚂, truck 🚚,
cactus 🌵 cactuses, rose 🌹, sunflower 🌻, tree 🌳, tulip 🌷,
anchor ⚓, balloon 🎈, basketball 🏀, bell 🔔, book 📕, camera 📷, candle 🕯, chair 🪑, clock ⏰, crown 👑, drum 🥁,
ghost 👻, guitar 🎸, hat 🎩, house 🏠, key 🔑, kite 🪁, ladder 🪜, magnet 🧲, moon 🌙, pencil ✏, robot 🤖,
snowman ⛄ snowmen, star ⭐, sun ☀, telephone ☎, tent ⛺, trophy 🏆, umbrella ☂, violin 🎻
"""


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def _parse(lists: str) -> dict[str, tuple[str, str]]:
    rows = (row.split() for row in lists.replace("\n", " ").split(","))
    return {row[0]: (row[2] if len(row) > 2 else _plural(row[0]), row[1]) for row in rows if row}


_CONCEPTS = _parse(_LISTS)
CONCEPTS: tuple[str, ...] = tuple(_CONCEPTS)
PLURALS: dict[str, str] = {noun: plural for noun, (plural, _) in _CONCEPTS.items()}
NOUNS: dict[str, str] = {n: n for n in CONCEPTS} | {plural: noun for noun, plural in PLURALS.items()}  # to its concept
EMOJI: dict[str, str] = {noun: symbol for noun, (_, symbol) in _CONCEPTS.items()}

# sRGB, chosen pale enough for the icons' black outlines and apart enough to name
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (226, 88, 80),
    "orange": (245, 160, 70),
    "yellow": (250, 226, 110),
    "green": (120, 196, 112),
    "blue": (96, 156, 232),
    "purple": (160, 112, 206),
    "gray": (150, 152, 156),
}

# place -> (row, column) of a 3 x 3 grid
PLACES: dict[str, tuple[int, int]] = {
    "top left": (0, 0), "top": (0, 1), "top right": (0, 2),
    "left": (1, 0), "middle": (1, 1), "right": (1, 2),
    "bottom left": (2, 0), "bottom": (2, 1), "bottom right": (2, 2),
}  # fmt: skip
