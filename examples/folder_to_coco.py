"""A worker over a folder: every picture segmented, results as one COCO file, damaged pictures named and left out.

python examples/folder_to_coco.py PICTURES out.json "mug; table; spoon"
"""

import json
import sys
from pathlib import Path

from nerve_runtime import Segmenter, SourceError
from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.images import read_image

BUNDLE = "bundles/tiny"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
RUN = 8  # pictures in memory at a time; of a bundle with --max-batch they share runs of the networks


def coco_of(folder: Path, classes: str) -> dict[str, list[dict[str, object]]]:
    """The pictures of a folder as `images`, `annotations` (one for each class seen) and `categories` of COCO."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    found: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    with Segmenter.open(BUNDLE, classes) as segmenter:
        found["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(segmenter.class_names)]
        for start in range(0, len(paths), RUN):
            pictures = {}
            for path in paths[start : start + RUN]:
                try:
                    pictures[path] = read_image(path)
                except SourceError as error:
                    print(f"left out: {error}", file=sys.stderr)
            for path, result in zip(pictures, segmenter.segment_batch(pictures.values()), strict=True):
                height, width = result.labels.shape
                image_id = len(found["images"]) + 1
                found["images"].append({"id": image_id, "file_name": path.name, "height": height, "width": width})
                for annotation in result.to_coco(image_id):
                    found["annotations"].append({**annotation, "id": len(found["annotations"]) + 1})
    return found


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    coco = coco_of(Path(sys.argv[1]), sys.argv[3])
    write_bytes_whole(Path(sys.argv[2]), json.dumps(coco).encode())
    print(f"{len(coco['images'])} pictures, {len(coco['annotations'])} annotations in {sys.argv[2]}")
