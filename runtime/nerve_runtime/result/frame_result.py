"""The result of one frame."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.drawing import OverlayStyle, overlay
from nerve_runtime.errors import CompatibilityError, UsageError
from nerve_runtime.labels import BACKGROUND_NAME, Labels, ignore_label
from nerve_runtime.opencv import cv2
from nerve_runtime.result.instance import Instances
from nerve_runtime.result.records import coco_annotations, result_record, seen_labels
from nerve_runtime.result.shapes import box, outlines

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PLOT_STYLE = OverlayStyle(status=False)


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Labels of one frame, in the frame's own size.

    Attributes:
        labels: uint8 (H, W) where there are at most 254 classes, background included, uint16 beyond, whatever the bundle
            could; value i means `class_names[i]`, `ignore_label` no label (the frame came out NaN).
        confidence: uint8 (H, W); the winning class's probability, 0 to 255 for 0 to 1.
        class_names: name of each label; the first is "background" when the vocabulary has background words.
        index: number of the frame in its source, from 0.
        time_s: presentation time in seconds, None when the caller gave a bare array.
        timings_ms: milliseconds spent in each stage that ran, in order, and in `total`. On a GPU a stage is only begun,
            and what is left of all of them is waited for in the read-out.
        keyframe: true when the attention was computed for this very frame.
        affinity_age: frames between the keyframe whose attention was used and this one; 0 on a keyframe.
        valid: false when the scores were not finite; then every label is `ignore_label` and every confidence 0.
        rgb: the frame itself, uint8 (H, W, 3), RGB, no copy; None of a result that came from another process.
        instances: of a result that an `InstanceTracker` numbered, else None.

    Labels are read out at the frame's size as long as k * H * W stays within `READOUT_ELEMENTS_LIMIT`
    (2**27, half a gigabyte of float32), k being the number of classes that can win anywhere in the frame; above that
    they are read out at a size halved until it fits and enlarged
    by nearest neighbour.
    """

    labels: Labels
    confidence: NDArray[np.uint8]
    class_names: tuple[str, ...]
    index: int
    time_s: Fraction | None
    timings_ms: dict[str, float]
    keyframe: bool
    affinity_age: int
    valid: bool
    rgb: NDArray[np.uint8] | None = None
    instances: Instances | None = None

    @property
    def ignore_label(self) -> int:
        """The value in `labels` that means no label: 255, or 65535 where they are uint16."""
        return ignore_label(self.labels.dtype)

    @property
    def has_background(self) -> bool:
        """Whether label 0 is the background class, which is all that is none of the others."""
        return bool(self.class_names) and self.class_names[0] == BACKGROUND_NAME

    @property
    def areas(self) -> dict[str, float]:
        """The share of the frame's pixels that each class seen has, 0 to 1, largest first; the background's too."""
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.class_names))[: len(self.class_names)]
        order = np.argsort(-pixels, kind="stable")
        return {self.class_names[i]: float(pixels[i] / self.labels.size) for i in order.tolist() if pixels[i]}

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Which pixels carry the class of a name, bool (H, W).

        Raises:
            UsageError: no class has this name.
        """
        if name not in self.class_names:
            raise UsageError(f"no class is named {name!r}, the classes are {', '.join(self.class_names)}")
        return np.asarray(self.labels == self.class_names.index(name))

    def plot(self, rgb: NDArray[np.uint8] | None = None, style: OverlayStyle = PLOT_STYLE) -> NDArray[np.uint8]:
        """The frame with its labels drawn over it, names and a legend, RGB uint8 (H, W, 3).

        Args:
            rgb: the frame, uint8 (H, W, 3), RGB; by default the one that was segmented.
            style: what to draw.

        Raises:
            UsageError: the result does not know its frame, as one that came from another process, or `rgb` has another
                size.
        """
        picture = self.rgb if rgb is None else rgb
        if picture is None:
            raise UsageError("this result came without its frame; give it: result.plot(rgb)")
        if picture.shape != (*self.labels.shape, 3) or picture.dtype != np.uint8:
            raise UsageError(
                f"the frame is {picture.dtype} {picture.shape}, expected uint8 {(*self.labels.shape, 3)}, RGB"
            )
        return overlay(np.ascontiguousarray(picture), self, style)

    def save(self, path: str | Path) -> Path:
        """Write the result whole, replacing the file that is there, and return its path.

        The suffix says what is written: `.png`, `.jpg`, `.jpeg` or `.webp` the picture of `plot`; `.labels.png` the
        labels, one grey channel of 8 bit, or 16 beyond 254 classes; `.json` the record of `nerve-segment --jsonl --rle`.

        Raises:
            UsageError: the suffix is none of these, its format holds no picture so large, or the result does not know its
                frame.
            ResourceError: the file cannot be written.
        """
        path = Path(path)
        write_bytes_whole(path, self._encoded(path))
        return path

    def _encoded(self, path: Path) -> bytes:
        suffix = path.suffix.lower()
        if suffix == ".json":
            return (
                json.dumps(result_record(self, rle=True, instances=self.instances), ensure_ascii=False, allow_nan=False)
                + "\n"
            ).encode()
        if suffix not in PICTURE_SUFFIXES:
            raise UsageError(
                f"{path} ends in {suffix!r}, expected {', '.join(PICTURE_SUFFIXES)} (the picture), .labels.png or .json"
            )
        if path.name.lower().endswith(".labels.png"):
            return cv2.imencode(".png", self.labels)[1].tobytes()
        return _encoded_picture(self.plot(), suffix)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """The result as COCO annotations, one for each class seen but the background: `annotations` of instances files.

        `category_id` is the label + 1, since 0 is none in COCO; `segmentation` holds uncompressed run lengths;
        `iscrowd` is 1: all pixels of a class, not one thing. `score` is the mean confidence, 0 to 1.
        """
        return coco_annotations(self, image_id)

    def to_polygons(self) -> dict[str, list[NDArray[np.int32]]]:
        """The border of each class seen but the background, by name: a polygon (n, 2) for each connected region.

        Points are x, y of pixel centres, on pixels of the region; holes are joined to the border. `cv2.fillPoly` of
        each polygon fills the region to the pixel.
        """
        return {self.class_names[label]: outlines(self.labels == label) for label in seen_labels(self)}

    def to_detections(self, *, background: bool = False) -> Any:
        """The result as `supervision.Detections`, one detection for each class seen, in the order of the labels.

        `xyxy` float32 (n, 4) is the box around all pixels of the class, its last column and row counted in as
        supervision's own `mask_to_xyxy` does; `mask` bool (n, H, W); `class_id` int (n,) is the label; `confidence`
        float32 (n,) is the mean over the class's pixels, 0 to 1; `data["class_name"]` holds the names. Pixels without a
        label are in none.

        Args:
            background: give the background class too.

        Raises:
            CompatibilityError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise CompatibilityError(
                "to_detections needs the package supervision, which is not installed; run: pip install supervision"
            ) from error
        seen = seen_labels(self, background=background)
        masks = self.labels[None] == np.array(seen, dtype=self.labels.dtype)[:, None, None]
        confidence = [float(self.confidence[mask].mean()) / 255.0 for mask in masks]
        return Detections(
            xyxy=np.array([box(mask) for mask in masks], dtype=np.float32).reshape(-1, 4),
            mask=masks,
            class_id=np.array(seen, dtype=int),
            confidence=np.array(confidence, dtype=np.float32),
            data={"class_name": np.array([self.class_names[label] for label in seen], dtype=str)},
        )


def _encoded_picture(rgb: NDArray[np.uint8], suffix: str) -> bytes:
    try:
        done, content = cv2.imencode(suffix, rgb[..., ::-1])
    except cv2.error:  # what releases before OpenCV 5 do in place of saying no
        done = False
    if not done:
        height, width = rgb.shape[:2]
        raise UsageError(f"a {suffix} file holds no picture of {width} x {height} pixels; name a .png file")
    return content.tobytes()
