"""Results as plain numbers and words, for JSON: of a frame, and in the forms of COCO."""

from typing import Any

import numpy as np

from nerve_runtime.drawing.labelled import LabelledFrame
from nerve_runtime.result.instance import Instance, Instances
from nerve_runtime.result.shapes import box, run_lengths


def result_record(
    result: LabelledFrame,
    *,
    rle: bool = False,
    source: str | None = None,
    file: str | None = None,
    timings: bool = True,
    instances: Instances | None = None,
) -> dict[str, Any]:
    """A result as plain numbers and words, for JSON; `mean_confidence` is 0 to 1, `share` is of the frame's pixels.

    Args:
        result: of one frame.
        rle: add the run lengths of every class.
        source: name of the source.
        file: name of the image file that the frame is, None for a frame of a video.
        timings: add `timings_ms`.
        instances: of the frame, to add.
    """
    height, width = result.labels.shape
    record: dict[str, Any] = {
        "source": source,
        "file": file,
        "index": result.index,
        "time_s": None if result.time_s is None else float(result.time_s),
        "size_hw": [height, width],
        "keyframe": result.keyframe,
        "affinity_age": result.affinity_age,
        "valid": result.valid,
        "classes": _class_records(result, rle=rle) if result.valid else [],
    }
    if instances is not None:
        record["instances"] = [_instance_record(instance, instances, rle=rle) for instance in instances.instances]
    if timings:
        record["timings_ms"] = {stage: round(duration_ms, 3) for stage, duration_ms in result.timings_ms.items()}
    return record


def _class_records(result: LabelledFrame, *, rle: bool) -> list[dict[str, Any]]:
    classes = len(result.class_names)
    pixels = np.bincount(result.labels.ravel(), minlength=classes)
    confidence = np.bincount(result.labels.ravel(), weights=result.confidence.ravel(), minlength=classes)
    records = []
    for label, name in enumerate(result.class_names):
        count = int(pixels[label])
        if not count:
            continue
        record: dict[str, Any] = {
            "label": label,
            "name": name,
            "pixels": count,
            "share": round(count / result.labels.size, 6),
            "mean_confidence": round(float(confidence[label]) / count / 255.0, 4),
        }
        if rle:
            record["rle"] = run_lengths(result.labels == label)
        records.append(record)
    return records


def _instance_record(instance: Instance, instances: Instances, *, rle: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "number": instance.number,
        "label": instance.label,
        "name": instance.name,
        "pixels": instance.area,
        "box": list(instance.box),
        "mean_confidence": instance.confidence,
    }
    if rle:
        record["rle"] = run_lengths(instances.mask(instance.number))
    return record


def coco_annotations(result: LabelledFrame, image_id: int) -> list[dict[str, Any]]:
    """A result as COCO's annotations of one image, one for each class seen; see `FrameResult.to_coco`."""
    annotations: list[dict[str, Any]] = []
    for label in seen_labels(result):
        mask = result.labels == label
        left, top, right, bottom = box(mask)
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "segmentation": run_lengths(mask),
                "area": int(mask.sum()),
                "bbox": [left, top, right - left + 1, bottom - top + 1],
                "iscrowd": 1,
                "score": round(float(result.confidence[mask].mean()) / 255.0, 4),
            }
        )
    return annotations


def seen_labels(result: LabelledFrame, *, background: bool = False) -> list[int]:
    """The labels that a frame shows, in order; those of the background only where asked for."""
    seen = [int(label) for label in np.unique(result.labels) if label != result.ignore_label]
    return seen if background or not result.has_background else [label for label in seen if label != 0]
