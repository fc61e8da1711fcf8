"""Pictures at the top of the report: stills from frame to labels."""

import cv2
import numpy as np
from numpy.typing import NDArray

from nerve_bench.cli.shared import open_world, scene_seeds
from nerve_bench.report.method_pictures import method_picture

STILLS = 4
Picture = NDArray[np.uint8]


def qualitative_pictures() -> dict[str, bytes]:
    """PNG files by what they show."""
    world = open_world("tiny")
    stills = method_picture(world, list(scene_seeds("test", 0, STILLS)))
    return {"Test scenes: frame, CLIP alone, best and worst head, NERVE, truth": _png(stills)}


def _png(picture: Picture) -> bytes:
    encoded, content = cv2.imencode(".png", picture[..., ::-1])
    if not encoded:
        raise RuntimeError("OpenCV cannot write PNG, which every build of it can")
    return bytes(content)
