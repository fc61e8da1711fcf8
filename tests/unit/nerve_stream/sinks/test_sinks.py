import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.drawing.colours import class_colours
from nerve_runtime.errors import ResourceError, UsageError
from nerve_runtime.result import FrameResult, run_lengths
from nerve_stream.sinks import (
    FpsMeter,
    JsonLines,
    MaskFolder,
    OverlayVideo,
    Sink,
    fit_to_canvas,
    indexed_png,
    mask_name,
    safe_name,
)
from tests.data.clips import halves


def result(index: int = 0, size_hw: tuple[int, int] = (48, 64), *, valid: bool = True) -> FrameResult:
    labels = np.zeros(size_hw, dtype=np.uint8) if valid else np.full(size_hw, 255, dtype=np.uint8)
    labels[:, size_hw[1] // 4 :] = 2 if valid else 255
    confidence = np.full(size_hw, 204 if valid else 0, dtype=np.uint8)
    time_s = Fraction(index, 10)
    return FrameResult(labels, confidence, ("grass", "sky", "zebra"), index, time_s, {"total": 1.23456}, True, 0, valid)


def write_all(sink: Sink, frames: int = 3, size_hw: tuple[int, int] = (48, 64)) -> None:
    with sink:
        for index in range(frames):
            sink.write(halves(size_hw), result(index, size_hw))


def overlay_in(folder: Path, *, force: bool = False) -> Sink:
    return OverlayVideo(folder / "out.mp4", fps=Fraction(10), force=force)


def masks_in(folder: Path, *, force: bool = False) -> Sink:
    return MaskFolder(folder / "masks", force=force)


def lines_in(folder: Path, *, force: bool = False) -> Sink:
    return JsonLines(folder / "out.jsonl", force=force)


def write_then_break(sink: Sink) -> None:
    sink.write(halves(), result())
    raise ValueError("not all the input came")


EVERY_KIND = pytest.mark.parametrize("sink_in", [overlay_in, masks_in, lines_in])


@EVERY_KIND
def test_nothing_is_left_behind_by_a_run_that_fails(tmp_path: Path, sink_in: Callable[..., Sink]) -> None:
    with pytest.raises(ValueError, match="not all the input came"), sink_in(tmp_path / "made" / "here") as sink:
        write_then_break(sink)
    assert list((tmp_path / "made" / "here").iterdir()) == []


@EVERY_KIND
def test_an_output_is_replaced_only_by_force(tmp_path: Path, sink_in: Callable[..., Sink]) -> None:
    write_all(sink_in(tmp_path))
    with pytest.raises(UsageError, match="already; choose another"):
        sink_in(tmp_path)
    write_all(sink_in(tmp_path, force=True), frames=1)


def decoded(path: Path) -> list[tuple[Fraction, tuple[int, ...]]]:
    """Time and shape of every frame of an H.264 file."""
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        pictures: list[Any] = list(container.decode(video=0))
        return [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24").shape) for frame in pictures]


def test_the_overlay_keeps_the_times_of_the_source_and_pads_to_even_sides(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "out.mp4", fps=Fraction(10))
    with sink:
        for index in (5, 6, 9):
            sink.write(halves((47, 63)), result(index, (47, 63)))
    times_s = [time_s for time_s, _ in decoded(tmp_path / "out.mp4")]
    assert [time_s - times_s[0] for time_s in times_s] == [0, Fraction(1, 10), Fraction(4, 10)]
    assert {shape for _, shape in decoded(tmp_path / "out.mp4")} == {(48, 64, 3)}


def test_frames_of_another_size_and_repeated_times_are_fitted_in(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "out.mkv", fps=None)
    with sink:
        for size_hw in ((48, 64), (96, 64), (20, 64)):
            sink.write(halves(size_hw), result(0, size_hw))
    got = decoded(tmp_path / "out.mkv")
    assert [shape for _, shape in got] == [(48, 64, 3)] * 3


def test_an_overlay_of_no_frames_is_not_written(tmp_path: Path) -> None:
    write_all(OverlayVideo(tmp_path / "out.mp4", fps=None), frames=0)
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_needs_a_known_suffix_and_no_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in '\.avi', expected one of \.mp4, \.mkv, \.mov"):
        OverlayVideo(tmp_path / "out.avi", fps=None)
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(UsageError, match="is a folder, expected a file name"):
        OverlayVideo(tmp_path / "out.mp4", fps=None, force=True)


def test_a_mask_holds_labels_as_pixels_and_colours_as_palette(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    table = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    content = indexed_png(labels, table)
    (tmp_path / "mask.png").write_bytes(content)
    with av.open(str(tmp_path / "mask.png")) as container:
        frame = next(container.decode(video=0))
        indices, colours = frame.to_ndarray()
    assert frame.format.name == "pal8"
    np.testing.assert_array_equal(indices, labels)
    decoded_bgr = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert decoded_bgr is not None
    np.testing.assert_array_equal(decoded_bgr[..., ::-1], table[labels])
    assert len(colours) == 256


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (40, 1), (33, 47), (2, 16_384)])
def test_a_video_of_any_size_that_h264_has_is_written(suffix: str, size_hw: tuple[int, int], tmp_path: Path) -> None:
    write_all(OverlayVideo(tmp_path / f"o{suffix}", size_hw, fps=Fraction(10)), frames=2, size_hw=size_hw)
    with av.open(str(tmp_path / f"o{suffix}")) as container:
        shapes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert shapes == [(size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2)] * 2


@pytest.mark.parametrize("size_hw", [(10, 20_000), (16_385, 2)])
def test_a_video_that_h264_cannot_hold_is_refused_before_the_first_frame(
    size_hw: tuple[int, int], tmp_path: Path
) -> None:
    message = rf"overlay .*o\.mp4 would have {size_hw[1]} x {size_hw[0]} pixels, H\.264 takes at most 16384 a side"
    with pytest.raises(UsageError, match=message):
        OverlayVideo(tmp_path / "o.mp4", size_hw, fps=None)
    with pytest.raises(UsageError, match=message):
        write_all(OverlayVideo(tmp_path / "o.mp4", fps=None), frames=1, size_hw=size_hw)
    assert list(tmp_path.iterdir()) == []


def test_every_reader_gives_the_labels_of_a_mask(tmp_path: Path) -> None:
    expected = result(0).labels
    write_all(MaskFolder(tmp_path / "grey"), frames=1)
    write_all(MaskFolder(tmp_path / "coloured", "palette"), frames=1)
    grey, coloured = tmp_path / "grey" / mask_name(0), tmp_path / "coloured" / mask_name(0)
    for read in (cv2.imread(str(grey), cv2.IMREAD_UNCHANGED), Image.open(grey), Image.open(coloured)):
        np.testing.assert_array_equal(np.asarray(read), expected)
    in_colour = cv2.imread(str(coloured), cv2.IMREAD_UNCHANGED)
    assert in_colour is not None
    assert in_colour.shape == (*expected.shape, 3)
    with pytest.raises(UsageError, match="mask format is 'grey', expected labels or palette"):
        MaskFolder(tmp_path / "other", "grey")  # type: ignore[arg-type]


def test_masks_are_named_by_frame_and_a_forced_run_removes_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "mine.txt").write_text("keep", encoding="utf-8")
    write_all(MaskFolder(tmp_path / "masks"), frames=3)
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == [f"frame_{n:06d}.png" for n in range(3)]
    write_all(MaskFolder(tmp_path / "masks", force=True), frames=1)
    left = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert left == ["classes.json", "frame_000000.png", "mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


def test_palette_masks_have_the_colours_of_the_overlay(tmp_path: Path) -> None:
    write_all(MaskFolder(tmp_path / "masks", "palette"), frames=1)
    bgr = cv2.imread(str(tmp_path / "masks" / mask_name(0)))
    assert bgr is not None
    np.testing.assert_array_equal(bgr[..., ::-1], class_colours(("grass", "sky", "zebra"))[result().labels])


def test_a_resumed_folder_keeps_what_a_broken_run_wrote_and_ends_as_one_run_would(tmp_path: Path) -> None:
    write_all(MaskFolder(tmp_path / "whole"), frames=3)
    with pytest.raises(ValueError, match="not all the input came"), MaskFolder(tmp_path / "m", resume=True) as sink:
        write_then_break(sink)
    (tmp_path / "m" / mask_name(7)).write_bytes(b"of a picture that is gone")
    with MaskFolder(tmp_path / "m", resume=True) as sink:
        for index in (0, 1, 2):
            sink.write(halves(), result(index))
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "m")]
    assert sorted(contents[0]) == ["classes.json", *(mask_name(index) for index in range(3))]
    assert contents[0] == contents[1]


def test_a_masks_folder_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "masks").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        MaskFolder(tmp_path / "masks", force=True)


def test_a_line_tells_area_share_and_confidence_of_every_class_seen(tmp_path: Path) -> None:
    write_all(JsonLines(tmp_path / "out.jsonl", rle=True), frames=2)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[1]["index"] == 1
    assert lines[1]["time_s"] == 0.1
    assert lines[1]["size_hw"] == [48, 64]
    assert lines[1]["timings_ms"] == {"total": 1.235}
    grass, zebra = lines[1]["classes"]
    assert grass | {"rle": None} == {
        "label": 0, "name": "grass", "pixels": 768, "share": 0.25, "mean_confidence": 0.8, "rle": None
    }  # fmt: skip
    assert (zebra["name"], zebra["pixels"]) == ("zebra", 2304)
    assert zebra["rle"] == {"size": [48, 64], "counts": [768, 2304]}


def test_a_line_names_its_source_and_the_age_of_its_attention(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "out.jsonl", source="clip.mp4") as sink:
        sink.write(halves(), replace(result(), keyframe=False, affinity_age=3))
    line = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert (line["source"], line["keyframe"], line["affinity_age"]) == ("clip.mp4", False, 3)


def test_each_line_is_in_its_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    hidden, followed = JsonLines(tmp_path / "a.jsonl"), JsonLines(tmp_path / "b.jsonl", follow=True)
    for sink in (hidden, followed):
        sink.write(halves(), result())
    (temporary,) = tmp_path.glob(".a.*.tmp.jsonl")
    assert json.loads(temporary.read_text()) == json.loads((tmp_path / "b.jsonl").read_text())
    assert not (tmp_path / "a.jsonl").exists()
    hidden.abort()
    followed.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]
    with pytest.raises(UsageError, match="exists already"):
        JsonLines(tmp_path / "b.jsonl", follow=True)


def test_lines_to_a_dash_go_to_stdout_which_stays_open(capsys: pytest.CaptureFixture[str]) -> None:
    write_all(JsonLines(Path("-")), frames=2)
    sys.stdout.write("after\n")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["index"] for line in lines[:2]] == [0, 1]
    assert lines[2] == "after"


def test_an_invalid_frame_is_said_to_be_so_and_names_no_class(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "out.jsonl") as sink:
        sink.write(halves(), result(valid=False))
    line = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert (line["valid"], line["classes"]) == (False, [])


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_run_lengths_give_the_mask_back(rows: list[list[bool]]) -> None:
    mask: NDArray[np.bool_] = np.array(rows)
    runs = run_lengths(mask)
    flat = [bool(n % 2) for n, count in enumerate(runs["counts"]) for _ in range(count)]
    np.testing.assert_array_equal(np.array(flat).reshape(mask.shape, order="F"), mask)


def test_pycocotools_reads_our_run_lengths() -> None:
    coco: Any = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for mask in np.random.default_rng(0).random((20, 7, 5)) < 0.5:
        np.testing.assert_array_equal(coco.decode(coco.frPyObjects(run_lengths(mask), *mask.shape)), mask)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("street", "street"),
        ("../../etc/passwd", "etc_passwd"),
        ("a/b\\c", "a_b_c"),
        ("..", "source"),
        ("", "source"),
        ("nul", "_nul"),
        ("COM1.txt", "_COM1.txt"),
        ("x" * 300, "x" * 100),
        ("b\u00fchne 1", "b\u00fchne_1"),
        ("new\nline\0", "new_line"),
    ],
)
def test_a_name_never_leaves_its_folder(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert safe_name("a", {"a": 1, "a_2": 1}) == "a_3"


def test_a_frame_of_another_shape_is_letterboxed_and_one_a_pixel_short_is_padded() -> None:
    assert fit_to_canvas(halves((48, 64)), (48, 64)).shape == (48, 64, 3)
    np.testing.assert_array_equal(fit_to_canvas(halves((47, 63)), (48, 64))[:47, :63], halves((47, 63)))
    wide = fit_to_canvas(np.full((20, 80, 3), 200, dtype=np.uint8), (48, 64))
    assert (wide[:16] == 200).all()
    assert (wide[16:] == 0).all()


def test_the_frame_rate_is_that_of_the_last_two_seconds() -> None:
    times_s = iter([0.0, 0.1, 0.2, 5.0, 5.5, 6.0])
    meter = FpsMeter(clock=lambda: next(times_s))
    assert meter.count_frame() is None
    assert [round(meter.count_frame() or 0, 3) for _ in range(2)] == [10.0, 10.0]
    assert [round(meter.count_frame() or 0, 3) for _ in range(3)][-1] == 2.0


KILLED = """
import sys
from pathlib import Path
sys.path[:] = sys.argv[2:]
from tests.unit.nerve_stream.sinks.test_sinks import _write_until_killed
_write_until_killed(Path(sys.argv[1]))
"""


def _write_until_killed(path: Path) -> None:
    sink = OverlayVideo(path, fps=Fraction(25))
    for index in range(1000):
        sink.write(halves((240, 320)), result(index, (240, 320)))
        if index == 20:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_leaves_no_file_with_the_final_name(tmp_path: Path) -> None:
    # Not multiprocessing: its resource tracker would go on, and other tests count the children that are left.
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out.mp4"), *sys.path]
    assert subprocess.run(command, timeout=30, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    write_all(OverlayVideo(tmp_path / "out.mp4", fps=None))
    assert len(decoded(tmp_path / "out.mp4")) == 3


def test_an_overlay_is_finished_within_a_second(tmp_path: Path) -> None:
    def finishing_s(path: Path) -> float:
        with OverlayVideo(path, fps=Fraction(25)) as sink:
            for index in range(30):
                sink.write(np.roll(halves((720, 1280)), 40 * index, axis=1), result(index, (720, 1280)))
            started_s = time.monotonic()
        return time.monotonic() - started_s

    # It takes a tenth of that; what else a machine does can only add to it, so that the best of three counts.
    assert any(finishing_s(tmp_path / f"{number}.mp4") < 1.0 for number in range(3))


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ResourceError, match=r"No space left on device \(ENOSPC\); free space or choose"):
        write_bytes_whole(tmp_path / "file", b"content")
    with pytest.raises(ResourceError, match=r"cannot write .*masks"), MaskFolder(tmp_path / "masks") as sink:
        sink.write(halves(), result())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_fails_lines_and_overlay_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    for sink in (JsonLines(tmp_path / "out.jsonl"), OverlayVideo(tmp_path / "out.mp4", fps=None)):
        with pytest.raises(ResourceError, match=r"cannot write .*out\..*ENOSPC"):
            write_all(sink)
    assert list(tmp_path.iterdir()) == []
