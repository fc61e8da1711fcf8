"""Things people know: 64 rendered objects of several colours and parts, cut out of one atlas picture.

The atlas `things.webp` holds 8 x 8 pictures of 128 px with alpha, in the order of `THINGS`. `python -m
nerve_bench.world.atlas PACKAGE` makes it out of the npm package `@lobehub/fluent-emoji-3d` 1.1.0 (Microsoft's
Fluent Emoji, MIT licence, see `things.licence.txt`).
"""

from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

ATLAS = "things.webp"
ATLAS_COLUMNS = 8
PICTURE_PX = 128
"""Side of one picture of the atlas."""

THINGS: dict[str, str] = {
    "dog": "1f415",
    "apple": "1f34e",
    "car": "1f697",
    "tree": "1f332",
    "umbrella": "2602",
    "cow": "1f404",
    "pizza": "1f355",
    "bus": "1f68c",
    "penguin": "1f427",
    "banana": "1f34c",
    "sunflower": "1f33b",
    "soccer ball": "26bd",
    "tiger": "1f405",
    "strawberry": "1f353",
    "tractor": "1f69c",
    "laptop": "1f4bb",
    "parrot": "1f99c",
    "doughnut": "1f369",
    "rocket": "1f680",
    "cactus": "1f335",
    "zebra": "1f993",
    "hamburger": "1f354",
    "taxi": "1f695",
    "guitar": "1f3b8",
    "ladybug": "1f41e",
    "watermelon": "1f349",
    "airplane": "2708",
    "house": "1f3e0",
    "frog": "1f438",
    "broccoli": "1f966",
    "bicycle": "1f6b2",
    "gift": "1f381",
    "elephant": "1f418",
    "grapes": "1f347",
    "train": "1f682",
    "palm tree": "1f334",
    "butterfly": "1f98b",
    "lemon": "1f34b",
    "sailboat": "26f5",
    "camera": "1f4f7",
    "horse": "1f40e",
    "carrot": "1f955",
    "helicopter": "1f681",
    "balloon": "1f388",
    "fish": "1f420",
    "mushroom": "1f344",
    "truck": "1f69a",
    "tulip": "1f337",
    "cat": "1f408",
    "orange": "1f34a",
    "panda": "1f43c",
    "teapot": "1fad6",
    "pig": "1f416",
    "cheese": "1f9c0",
    "owl": "1f989",
    "corn": "1f33d",
    "lion": "1f981",
    "cookie": "1f36a",
    "turtle": "1f422",
    "pineapple": "1f34d",
    "flamingo": "1f9a9",
    "octopus": "1f419",
    "bee": "1f41d",
    "crab": "1f980",
}
"""Name of each thing and its code point. Animals, food, vehicles, plants and household alternate, so that the first
`n` of them are a world of all kinds."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "grass": ("lawn", "meadow"),
    "sand": ("beach",),
    "water": ("sea",),
    "road": ("street", "asphalt"),
    "dog": ("puppy",),
    "car": ("automobile",),
    "tree": ("fir",),
    "soccer ball": ("football",),
    "laptop": ("notebook",),
    "parrot": ("macaw",),
    "doughnut": ("donut",),
    "hamburger": ("burger",),
    "taxi": ("cab",),
    "ladybug": ("ladybird",),
    "airplane": ("plane", "aeroplane"),
    "house": ("home",),
    "frog": ("toad",),
    "bicycle": ("bike",),
    "gift": ("present",),
    "train": ("locomotive",),
    "palm tree": ("palm",),
    "sailboat": ("yacht",),
    "horse": ("pony",),
    "helicopter": ("chopper",),
    "mushroom": ("toadstool",),
    "truck": ("lorry",),
    "cat": ("kitten",),
    "orange": ("tangerine",),
    "teapot": ("kettle",),
    "corn": ("maize",),
    "cookie": ("biscuit",),
    "turtle": ("tortoise",),
    "bee": ("bumblebee",),
}
"""Other words for a class that the tiny model has learned too."""


def words_of(name: str) -> tuple[str, ...]:
    """A class name and its synonyms."""
    return (name, *SYNONYMS.get(name, ()))


@cache
def thing_pictures() -> NDArray[np.uint8]:
    """All things, cut out: RGBA uint8 (64,128,128,4), in the order of `THINGS`.

    Raises:
        ValueError: the atlas is damaged.
    """
    packed = np.frombuffer(files("nerve_bench.world").joinpath(ATLAS).read_bytes(), np.uint8)
    atlas = cv2.imdecode(packed, cv2.IMREAD_UNCHANGED)
    rows = -(-len(THINGS) // ATLAS_COLUMNS)
    expected = (rows * PICTURE_PX, ATLAS_COLUMNS * PICTURE_PX, 4)
    if atlas is None or atlas.shape != expected:
        found = "no picture" if atlas is None else f"a picture of shape {atlas.shape}"
        raise ValueError(f"{ATLAS} holds {found}, expected {expected}; is the installation complete?")
    cells = atlas.reshape(rows, PICTURE_PX, ATLAS_COLUMNS, PICTURE_PX, 4).swapaxes(1, 2)
    pictures = cells.reshape(-1, PICTURE_PX, PICTURE_PX, 4)[: len(THINGS)]
    return np.ascontiguousarray(pictures[..., [2, 1, 0, 3]])
