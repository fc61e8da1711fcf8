"""The programs and notebooks of examples/ are short, are run here with the tiny bundle, and stand in the index of the docs."""

import ast
import json
import re
import runpy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime.images import read_image
from nerve_runtime.opencv import cv2
from tests.contracts.checkout import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
LONGEST_PROGRAM = 60
WORDS = "sunflower; dog; house; water; sand; sky"
CLIP = ROOT / "runtime" / "nerve_stream" / "demo" / "clip.mp4"
FRAMES = 12

pytestmark = pytest.mark.onnx


def example(name: str) -> Any:
    """What an example defines, as attributes; only what is under `if __name__ == "__main__"` is not run."""
    path = EXAMPLES / f"{name}.py"
    return type(
        "Example", (), {key: staticmethod(value) if callable(value) else value for key, value in _run(path).items()}
    )


def _run(path: Path) -> Mapping[str, Any]:
    return runpy.run_path(str(path), run_name=path.stem)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / "bundles" / "tiny" / "manifest.json").is_file():
        pytest.skip("bundles/tiny is missing: make bundle")
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the packaged clip."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    capture = cv2.VideoCapture(str(CLIP))
    frames = [capture.read()[1] for _ in range(FRAMES)]
    capture.release()
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def picture(clip: Path) -> Path:
    """The first of them as a PNG."""
    path = clip.with_name("first.png")
    capture = cv2.VideoCapture(str(clip))
    cv2.imwrite(str(path), capture.read()[1])
    capture.release()
    return path


def test_examples_are_short() -> None:
    lengths = {name: len((EXAMPLES / name).read_text().splitlines()) for name in PROGRAMS}
    assert len(PROGRAMS) == 8
    assert {name: length for name, length in lengths.items() if length > LONGEST_PROGRAM} == {}


def test_every_example_is_tested_here() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in PROGRAMS if f'example("{Path(name).stem}")' not in tests] == []


def test_every_example_is_in_the_index() -> None:
    index = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^\| \[([\w.]+)\]\(\.\./examples/\1\) \|", index)) == {*PROGRAMS, *NOTEBOOKS}


def test_every_program_is_shown_in_the_docs_as_it_is() -> None:
    shown = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("embedding.md", "examples.md"))
    assert sorted(re.findall(r'(?m)^```python\n--8<-- "examples/([\w.]+)"\n```$', shown)) == PROGRAMS


def test_a_file_becomes_masks(clip: Path, tmp_path: Path) -> None:
    assert example("file_to_masks").write_masks(str(clip), tmp_path / "masks", WORDS) == FRAMES
    masks = sorted((tmp_path / "masks").iterdir())
    assert [path.name for path in masks] == [f"frame_{index:06}.labels.png" for index in range(FRAMES)]
    first = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert first is not None
    assert first.dtype == np.uint8
    assert first.ndim == 2
    assert first.max() < len(WORDS.split(";"))


def test_a_picture_becomes_a_mask(picture: Path, tmp_path: Path) -> None:
    assert example("file_to_masks").write_masks(str(picture), tmp_path, WORDS) == 1
    mask = cv2.imread(str(tmp_path / "frame_000000.labels.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == read_image(picture).shape[:2]


def test_a_camera_is_watched_until_it_ends(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example("camera_loop").watch(str(clip), WORDS, show=False) == FRAMES
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == FRAMES
    assert all(re.match(r"[a-z]+ \d+%", line) for line in lines)


def test_a_picture_that_is_posted_is_answered(picture: Path) -> None:
    testing = pytest.importorskip("starlette.testclient", reason="starlette or its test client is not installed")
    program = example("rest_endpoint")
    height, width = read_image(picture).shape[:2]
    with testing.TestClient(program.app) as client:
        record = client.post("/segment", params={"classes": WORDS}, content=picture.read_bytes()).json()
        assert record["size_hw"] == [height, width]
        assert sum(seen["pixels"] for seen in record["classes"]) == height * width
        assert all(sum(seen["rle"]["counts"]) == height * width for seen in record["classes"])
        assert client.post("/segment", content=b"no picture").status_code == 415
        refused = client.post("/segment", params={"classes": "violin; sand"}, content=picture.read_bytes())
        assert (refused.status_code, "violin" in refused.json()["error"]) == (400, True)
        assert client.post("/segment", content=b"x" * (program.BODY_LIMIT + 1)).status_code == 413


def test_a_folder_becomes_one_coco_file(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(picture, folder / name)
    (folder / "b.png").write_bytes(b"damaged")
    (folder / "notes.txt").write_text("no picture")
    coco = example("folder_to_coco").coco_of(folder, WORDS)
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "c.png"]
    assert "b.png" in capsys.readouterr().err
    annotations = coco["annotations"]
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
    by_image = [[a for a in annotations if a["image_id"] == image["id"]] for image in coco["images"]]
    assert [a["area"] for a in by_image[0]] == [a["area"] for a in by_image[1]]
    assert sum(a["area"] for a in by_image[0]) == coco["images"][0]["height"] * coco["images"][0]["width"]
    json.dumps(coco)


def test_words_change_while_a_video_runs(tmp_path: Path) -> None:
    first, second = example("change_words").areas_of_each(str(CLIP), "dog; sand", "house; water; sky")
    assert set(first) <= {"dog", "sand"}
    assert set(second) <= {"house", "water", "sky"}
    assert sum(first.values()) == pytest.approx(1)


def test_videos_take_turns_and_do_not_mix(clip: Path, picture: Path) -> None:
    results = list(example("several_videos").results_in_turn(WORDS, [str(clip), str(picture), str(clip)]))
    assert [path for path, _ in results[:3]] == [str(clip), str(picture), str(clip)]
    assert len(results) == 2 * FRAMES + 1
    of_clip = [result for path, result in results if path == str(clip)]
    assert all((a.labels == b.labels).all() for a, b in zip(of_clip[::2], of_clip[1::2], strict=True))


def test_a_thing_that_is_seen_in_every_frame_keeps_its_number(clip: Path) -> None:
    classes = "sunflower; bicycle, bike; strawberry; water; sand; sky"
    seen = example("count_things").frames_of_each(str(clip), classes, "bicycle")
    assert max(seen.values()) == FRAMES


def test_faults_come_when_they_are_asked_for() -> None:
    assert example("without_models").worst_day("bundles/tiny") == [
        "labels",
        "no labels, all are 255",
        "memory: frame 2 of 160 x 90 pixels ran out of memory; use smaller frames",
        "labels",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name: str) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
    assert len(names) > 5, "its cells make nothing"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_no_outputs(name: str) -> None:
    cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    for cell in cells:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ("rest_endpoint.py", "without_models.py")])
def test_a_program_without_its_words_says_how_it_is_started(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert f"python examples/{name} " in str(ended.value)
