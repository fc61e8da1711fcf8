from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nerve_runtime.errors import UsageError
from nerve_runtime.frames import Frame
from nerve_runtime.temporal import EVERY_FRAME, Temporal
from nerve_stream.cli.groups import grouped
from nerve_stream.cli.options import ClassOptions, OutputOptions, RunOptions, SourceOptions
from nerve_stream.cli.plan import chosen_outputs, chosen_temporal, is_enabled, job_key, segmenter_options
from nerve_stream.outputs.planning import Outputs, plan_sources, source_kind
from nerve_stream.sources.addresses import is_live
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.selected import SelectedFrames
from tests.data.clips import halves, write_clip


def outputs_for(**words: object) -> Outputs:
    return chosen_outputs(OutputOptions(**words))  # type: ignore[arg-type]  # names of options


def test_a_plain_overlay_has_no_text() -> None:
    plain, usual = outputs_for(plain=True).style, outputs_for().style
    assert (plain.names, plain.legend, plain.status) == (False, False, False)
    assert (usual.names, usual.legend, usual.status) == (True, True, True)


@pytest.mark.parametrize("source", ["0", "/dev/video2", "rtsp://door/live", "http://door/stream.mjpg", "udp://:5000"])
def test_cameras_and_addresses_are_live(source: str) -> None:
    assert is_live(source)
    assert is_enabled(None, ["clip.mp4", source])
    assert not is_enabled(setting=False, sources=[source])


def test_files_are_not_live(tmp_path: Path) -> None:
    assert not is_live("clip.mp4")
    assert not is_enabled(None, ["clip.mp4", str(tmp_path)])
    assert is_enabled(setting=True, sources=["clip.mp4"])


def test_pictures_are_segmented_by_themselves_and_videos_are_followed(tmp_path: Path) -> None:
    picture = tmp_path / "a.PNG"
    cv2.imwrite(str(picture), np.zeros((4, 4, 3), np.uint8))
    assert [source_kind(str(source)) for source in (tmp_path, picture)] == ["pictures", "picture"]
    assert chosen_temporal([str(tmp_path), str(picture)], RunOptions()) == EVERY_FRAME
    assert chosen_temporal(["a.mp4", "0"], RunOptions()) == Temporal()


def test_pictures_and_videos_together_are_segmented_frame_by_frame_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen_temporal([str(tmp_path), "a.mp4"], RunOptions()) == EVERY_FRAME
    assert "pictures and videos together" in capsys.readouterr().err


def test_what_is_asked_for_decides() -> None:
    assert chosen_temporal(["a.mp4"], RunOptions(keyframe_every=1)) == EVERY_FRAME
    assert chosen_temporal(["a.png"], RunOptions(keyframe_every=5)).keyframe_every == 5
    assert chosen_temporal(["a.mp4"], RunOptions(keyframe_every=1, smoothing=0.5)).smoothing == 0.5
    warm = chosen_temporal(["a.mp4"], RunOptions(between="warm", scores_every=2))
    assert (warm.between, warm.smoothing, warm.scores_every) == ("warm", 0.0, 2)
    with pytest.raises(UsageError, match="between is 'guess'"):
        chosen_temporal(["a.mp4"], RunOptions(between="guess"))


def test_names_of_sources_hold_no_credentials_and_are_unique() -> None:
    planned = plan_sources(
        ["rtsp://me:secret@door/live?token=x", "a/clip.mp4", "b/clip.mp4"], outputs_for(masks=Path("m"))
    )
    assert [plan.name for plan in planned] == ["door_live", "clip", "clip_2"]
    assert [plan.outputs.masks for plan in planned] == [Path("m/door_live"), Path("m/a/clip"), Path("m/b/clip")]


def test_one_stream_out_takes_one_source() -> None:
    with pytest.raises(UsageError, match="--out sends one stream, but there are 2 sources"):
        plan_sources(["a.mp4", "b.mp4"], outputs_for(out="udp://127.0.0.1:5000"))


def test_stdout_takes_one_output_and_no_paths() -> None:
    assert outputs_for(out="-").takes_stdout
    assert outputs_for(jsonl=Path("-")).takes_stdout
    assert outputs_for(jsonl=Path("-")).paths() == []
    assert not outputs_for(overlay=Path("o.mp4")).takes_stdout
    with pytest.raises(UsageError, match="would share stdout"):
        outputs_for(out="-", jsonl=Path("-"))


def test_resuming_needs_an_output() -> None:
    with pytest.raises(UsageError, match="--resume has no output to go on with"):
        outputs_for(resume=True)


def test_the_key_of_a_job_changes_with_what_changes_labels_and_not_with_where_they_go(
    bundle: Path, tmp_path: Path
) -> None:
    def key(read: SourceOptions, write: OutputOptions, **find: object) -> str:
        named = ClassOptions(**{"bundle": bundle, "classes": "red; sky", **find})  # type: ignore[arg-type]
        options = segmenter_options(read.sources, named, RunOptions())
        return str(job_key(options, read, write).record()["job_key"])

    read = SourceOptions(["a.mp4"])
    first = key(read, OutputOptions(masks=Path("a")))
    assert key(read, OutputOptions(masks=Path("b"), force=True)) == first
    assert key(SourceOptions(["b.mp4"]), OutputOptions(masks=Path("a"))) == first
    others = [
        key(read, OutputOptions(masks=Path("a")), classes="red; road"),
        key(read, OutputOptions(masks=Path("a")), alpha=0.5),
        key(read, OutputOptions(masks=Path("a")), readout="guided"),
        key(SourceOptions(["a.mp4"], every=2), OutputOptions(masks=Path("a"))),
        key(read, OutputOptions(masks=Path("a"), opacity=0.1)),
        key(SourceOptions([str(tmp_path)]), OutputOptions(masks=Path("a"))),  # pictures: each by itself
    ]
    assert len({first, *others}) == len(others) + 1


def test_options_in_groups_are_those_of_one_command() -> None:
    app = typer.Typer()

    @app.command()
    @grouped
    def show(read: SourceOptions, run: RunOptions) -> None:
        typer.echo(f"{list(read.sources)} {read.start} {run.realtime} {run.keyframe_every}")

    ended = CliRunner().invoke(app, ["a.mp4", "b.mp4", "--start", "2.5", "--lossless", "--keyframe-every", "3"])
    assert ended.stdout == "['a.mp4', 'b.mp4'] 2.5 False 3\n"
    assert CliRunner().invoke(app, []).exit_code == 2  # SOURCES is still required
    unset = CliRunner().invoke(app, ["a.mp4"])
    assert unset.stdout == "['a.mp4'] 0.0 None None\n"


def test_selected_frames_are_some_of_the_source_and_keep_their_numbers(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 6)
    with SelectedFrames(open_frames(clip), limit=3, without={1}) as frames:
        taken = list(frames)
    assert [frame.index for frame in taken] == [0, 2, 3]
    assert frames.count == 3
    assert frames.state == "ended"
    assert taken[1].time_s == Fraction(2, 10)


def test_selected_frames_seek_where_the_source_can(tmp_path: Path) -> None:
    frames = SelectedFrames(open_frames(write_clip(tmp_path / "clip.mp4", 6)))
    given: list[Frame] = []
    for frame in frames:
        given.append(frame)
        if len(given) == 1:
            frames.seek(Fraction(4, 10))
    assert [frame.index for frame in given][-2:] == [4, 5]
    assert len(given) == 3
    assert given[0].rgb.shape == halves().shape
