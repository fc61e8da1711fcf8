import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner, Result

import nerve_runtime
import nerve_stream
from nerve_runtime.bundle.manifest import Manifest
from nerve_stream.cli import segment as cli
from nerve_stream.cli import vocabulary as vocabulary_cli
from tests.data.clips import damage_middle, halves, write_clip
from tests.data.fake_bundle import make_fake_bundle
from tests.data.running_command import error_of, summary_of

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(nerve_runtime.__file__).parents[1])}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 5)


def segment(bundle: Path, *arguments: object, classes: str | None = "red; grass; sky") -> Result:
    named = ["--classes", classes] if classes is not None else []
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(cli.app, [*words, "--bundle", str(bundle), "--backend", "fake", *named])


def test_a_clip_becomes_an_overlay_masks_and_lines(bundle: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outputs = ("--overlay", out / "overlay.mp4", "--masks", out / "masks", "--jsonl", out / "lines.jsonl")
    ended = segment(bundle, clip, *outputs, "--rle", "--keyframe-every", 2, "--timings")
    assert ended.exit_code == 0, ended.output
    written = [Path(line) for line in ended.stdout.splitlines()]
    assert written == [out / "lines.jsonl", out / "masks", out / "overlay.mp4"]
    lines = [json.loads(line) for line in (out / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["keyframe"] for line in lines] == [True, False, True, False, True]
    assert [line["time_s"] for line in lines] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert sum(record["pixels"] for record in lines[0]["classes"]) == 48 * 64
    assert len(list((out / "masks").glob("frame_*.png"))) == 5
    assert (out / "overlay.mp4").stat().st_size > 0
    assert "backend: fake" in ended.stderr
    assert "clip.mp4: 5 frames in " in ended.stderr
    assert "walk_carried" in ended.stderr


def test_with_json_only_json_lines_are_on_stdout(bundle: Path, clip: Path, tmp_path: Path) -> None:
    ended = segment(bundle, clip, "--jsonl", tmp_path / "lines.jsonl", "--json-summary", "--limit", 2)
    artefact, summary = [json.loads(line) for line in ended.stdout.splitlines()]
    assert artefact == {"artefact": "jsonl", "path": str(tmp_path / "lines.jsonl")}
    assert (summary["summary"], summary["frames"], summary["keyframes"]) == ("clip.mp4", 2, 1)
    assert {"p50_ms", "p90_ms", "p99_ms"} <= set(summary["stages"]["total"])


def test_several_sources_have_their_names_in_their_outputs(bundle: Path, clip: Path, tmp_path: Path) -> None:
    picture = tmp_path / "photo 1.png"
    cv2.imwrite(str(picture), halves())
    out = tmp_path / "out"
    ended = segment(bundle, clip, picture, clip, "--masks", out / "masks", "--jsonl", out / "a.jsonl")
    assert ended.exit_code == 0, ended.output
    places = {"clip": "clip", "photo_1": "photo 1.png", "clip_2": "clip_2"}
    assert ended.stdout.splitlines() == [
        str(out / path) for name, place in places.items() for path in (f"a.{name}.jsonl", f"masks/{place}")
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.mp4"], 5, "none.mp4 does not exist"),
        (["{clip}", "--classes-file", "{clip}"], 2, "named by --classes and --classes-file, expected exactly one"),
        (["{clip}", "--templates", "none"], 2, "template set 'none' is not in the bundle"),
        (["{clip}", "--keyframe-every", "0"], 2, "keyframe-every is 0, expected 1 or more frames"),
        (["{clip}", "--alpha", "1"], 2, "alpha is 1.0, expected 0 to below 1"),
        (["{clip}", "--overlay", "{clip}", "--force"], 2, "is the source itself"),
        (["{clip}", "--overlay", "{clip}"], 2, "is the source itself"),
        (["{clip}", "--jsonl", "{bundle}/manifest.json"], 2, "exists already; choose another name or add --force"),
        (["{clip}", "--backend", "rtx"], 4, "TensorRT"),
        (["{clip}", "--bundle", "{clip}"], 3, "is not a bundle"),
        (["{clip}", "--jsonl", "{clip}/x.jsonl"], 6, "cannot write"),
    ],
)
def test_a_mistake_is_one_line_and_its_own_exit_code(
    bundle: Path, clip: Path, arguments: list[str], code: int, message: str
) -> None:
    words = ["--bundle", str(bundle), "--backend", "fake", "--classes", "red; sky"]
    words += [argument.format(clip=clip, bundle=bundle) for argument in arguments]
    ended = CliRunner().invoke(cli.app, words)
    assert ended.exit_code == code, ended.output
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert ended.stdout == ""


def test_classes_may_come_from_files_and_templates_too(bundle: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("red\nsky # above\n", encoding="utf-8")
    (tmp_path / "templates.txt").write_text("a photo of a {}\n", encoding="utf-8")
    files = ("--classes-file", tmp_path / "names.txt", "--templates", tmp_path / "templates.txt")
    assert segment(bundle, clip, *files, classes=None).exit_code == 0
    ended = segment(bundle, clip, classes=None)
    assert (ended.exit_code, "named by no option" in ended.stderr) == (2, True)


def test_without_a_bundle_the_message_says_how_to_build_one(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(clip), "--classes", "red; sky", "--backend", "fake"]
    ended = CliRunner().invoke(cli.app, words)
    assert (ended.exit_code, "build it with: nerve-build" in ended.stderr) == (3, True)
    make_fake_bundle(tmp_path / "bundles" / "tiny", random_seed=0)
    ended = CliRunner().invoke(cli.app, words)
    assert (ended.exit_code, "random weights: labels mean nothing" in ended.stderr) == (0, True)


def test_the_read_out_that_is_asked_for_runs_and_is_in_the_summary(bundle: Path, clip: Path) -> None:
    for words, readout, stage in (((), "bilinear", "readout"), (("--readout", "guided"), "guided", "readout_guided")):
        summary = summary_of(segment(bundle, clip, "--json", "--limit", 2, *words))
        assert (summary["readout"], stage in summary["stages"]) == (readout, True)
    refused = segment(bundle, clip, "--readout", "sharp")
    assert (refused.exit_code, error_of(refused)) == (
        2,
        "error: readout is 'sharp', expected one of bilinear, guided, or None",
    )


def test_a_damaged_clip_leaves_nothing_but_its_summary_unless_parts_are_allowed(bundle: Path, tmp_path: Path) -> None:
    damage_middle(write_clip(tmp_path / "clip.mp4", 30, codec="mpeg4"))
    out = tmp_path / "out"
    words = (tmp_path / "clip.mp4", "--masks", out / "masks", "--overlay", out / "o.mp4", "--jsonl", out / "l.jsonl")
    ended = segment(bundle, *words, "--json")
    assert (ended.exit_code, list(out.iterdir())) == (5, [])
    summary = summary_of(ended)
    assert (0 < summary["frames"] < 30, f"error: {summary['error']}") == (True, error_of(ended))
    ended = segment(bundle, *words, "--allow-partial", "--json")
    assert (ended.exit_code, summary_of(ended)["error"]) == (0, None)
    assert {path.name for path in out.iterdir()} == {"masks", "o.mp4", "l.jsonl"}


@pytest.mark.parametrize(("bad", "code"), [({0}, 0), ({0, 1, 2, 3, 4}, 7)])
def test_exit_code_7_is_for_a_source_without_a_valid_frame(
    bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, bad: set[int], code: int
) -> None:
    from nerve_runtime.backends import fake

    def faulty(manifest: Manifest) -> Any:
        return real(manifest, fake.Faults(nan_scores_at=frozenset(bad)))

    real = fake.FakeBackend
    monkeypatch.setattr(fake, "FakeBackend", faulty)
    ended = segment(bundle, clip)
    assert ended.exit_code == code
    assert f"{len(bad)} of 5 frames had no finite scores and carry label 255" in ended.stderr
    assert ("every frame of" in ended.stderr) == (code == 7)


def test_strict_refuses_and_verbose_keeps_the_traceback(bundle: Path, clip: Path) -> None:
    ended = segment(bundle, clip, "--strict", "--verbose", classes="c\u0430t; grass")
    assert ended.exit_code == 2
    assert "mixes Cyrillic and Latin" in ended.stderr


def test_a_window_is_refused_where_opencv_has_none(bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise cv2.error("no window")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    ended = segment(bundle, clip, "--show")
    assert ended.exit_code == 4
    assert "this OpenCV cannot open a window; install opencv-python" in ended.stderr


def test_a_window_shows_frames_and_q_ends_the_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, ...]] = []
    for name in ("namedWindow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *arguments: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKeyEx", lambda wait_ms: ord("q") if shown else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, which: 1.0)
    ended = segment(bundle, write_clip(tmp_path / "long.mp4", 400), "--show", "--json")
    assert ended.exit_code == 0, ended.output
    assert shown[0] == (48, 64, 3)
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["stopped"]
    assert summary["frames"] < 400


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_files_and_gives_its_exit_code(
    bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    clip = write_clip(tmp_path / "long.mp4", 3000)
    overlay = tmp_path / "out" / "overlay.mp4"
    words = [
        str(clip),
        "--bundle",
        str(bundle),
        "--backend",
        "fake",
        "--classes",
        "red; sky",
        "--overlay",
        str(overlay),
    ]
    running = subprocess.Popen(
        [sys.executable, "-m", "nerve_stream", *words], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while running.poll() is None and not list(overlay.parent.glob(".overlay*")):
        time.sleep(0.02)
    time.sleep(0.5)
    running.send_signal(number)
    asked = time.monotonic()
    out, err = running.communicate(timeout=20)
    assert running.returncode == code, err.decode()
    assert time.monotonic() - asked < 5
    assert out.decode().split() == [str(overlay)]
    with nerve_stream.open_frames(overlay, allow_partial=True) as frames:
        assert 0 < len(list(frames)) < 3000


def test_help_is_quick_and_loads_no_inference_library() -> None:
    code = "import sys; from nerve_stream.cli.segment import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('onnxruntime', 'cv2', 'av', 'numpy') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "Exit codes: 0 done, 2 usage, 3 bundle" in ended.stdout


def test_a_reader_of_stdout_who_has_enough_ends_the_run_quietly(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mp4", 200)
    words = [sys.executable, "-m", "nerve_stream", str(clip), "--bundle", str(bundle), "--backend", "fake"]
    words += ["--classes", "red; grass", "--jsonl", "-", "--overlay", str(tmp_path / "overlay.mp4")]
    with subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["index"] == 0
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(30) == 141
    assert "error" not in said.lower()
    assert "Traceback" not in said
    with nerve_stream.open_frames(tmp_path / "overlay.mp4", allow_partial=True) as frames:
        assert 0 < sum(1 for _ in frames) < 200


def run_unread(command: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of `nerve_stream.cli` in a folder, its stdout a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    python = [sys.executable, "-c", f"from nerve_stream.cli import {command}; {command}()"]
    with os.fdopen(writing, "wb") as stdout:
        return subprocess.run(
            [*python, *words],
            env=ENVIRONMENT,
            cwd=folder,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.mark.parametrize("options", [["--json"], ["--masks", "masks"], ["--json", "--masks", "masks"]])
def test_paths_and_summaries_that_nobody_reads_end_the_run_quietly_with_its_outputs_in_place(
    options: list[str], bundle: Path, clip: Path, tmp_path: Path
) -> None:
    words = [str(clip), "--bundle", str(bundle), "--backend", "fake", "--classes", "red; grass", *options]
    ended = run_unread("run_segment", *words, folder=tmp_path)
    assert ended.returncode == 141, ended.stderr
    assert "error" not in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    assert len(list(tmp_path.glob("masks/*.png"))) == (5 if "--masks" in options else 0)


def test_a_vocabulary_file_whose_path_nobody_reads_is_written_whole(bundle: Path, tmp_path: Path) -> None:
    words = ["words.safetensors", "--bundle", str(bundle), "--backend", "fake", "--classes", "red; sky"]
    ended = run_unread("run_vocab", *words, folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (141, "")
    assert (tmp_path / "words.safetensors").is_file()


def test_an_output_that_is_a_link_to_itself_is_one_sentence(bundle: Path, clip: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    ended = segment(bundle, clip, "--jsonl", loop)
    assert (ended.exit_code, "(ELOOP)" in error_of(ended)) == (6, True)


def test_a_status_file_that_is_a_pipe_a_source_or_an_output_is_refused_before_any_frame(
    bundle: Path, clip: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    ended = segment(bundle, clip, "--status-json", tmp_path / "pipe")
    assert ended.exit_code == 2
    assert f"output {tmp_path / 'pipe'} is a named pipe, expected a file name" in error_of(ended)
    before = clip.read_bytes()
    ended = segment(bundle, clip, "--status-json", clip)
    assert (ended.exit_code, "is the source itself" in error_of(ended), clip.read_bytes()) == (2, True, before)
    ended = segment(bundle, clip, "--status-json", tmp_path / "o.jsonl", "--jsonl", tmp_path / "o.jsonl")
    assert (ended.exit_code, "two outputs would be written to" in error_of(ended)) == (2, True)


def test_an_overlay_that_h264_cannot_hold_is_one_sentence_before_any_frame(bundle: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    assert cv2.imwrite(str(wide), np.zeros((10, 20_000, 3), dtype=np.uint8))
    ended = segment(bundle, wide, "--overlay", tmp_path / "o.mp4", "--jsonl", tmp_path / "l.jsonl")
    assert ended.exit_code == 2
    assert "would have 20000 x 10 pixels, H.264 takes at most 16384 a side" in error_of(ended)
    assert list(tmp_path.glob("*.*l*")) == []


def test_a_run_without_outputs_says_which_there_are_before_the_first_frame(bundle: Path, clip: Path) -> None:
    ended = segment(bundle, clip, "--limit", 1)
    assert ended.exit_code == 0
    assert ended.stderr.startswith("no output is asked for, only times will be shown; --overlay FILE, --masks DIR")
    assert "no output is asked for" not in segment(bundle, clip, "--limit", 1, "--jsonl", "-").stderr


def test_a_vocabulary_file_stands_in_for_class_names(bundle: Path, clip: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.safetensors"
    words = [
        str(names),
        "--bundle",
        str(bundle),
        "--backend",
        "fake",
        "--classes",
        "red, ball; grass",
        "--background",
        "sky",
    ]
    ended = CliRunner().invoke(vocabulary_cli.app, words)
    assert (ended.exit_code, ended.stdout) == (0, f"{names}\n"), ended.output
    ended = segment(bundle, clip, "--vocabulary", names, "--json", "--jsonl", tmp_path / "l.jsonl", classes=None)
    assert ended.exit_code == 0, ended.output
    ended = CliRunner().invoke(vocabulary_cli.app, words)
    assert (ended.exit_code, "exists already" in ended.stderr) == (2, True)
    with safe_open(names, "numpy") as file:
        assert json.loads(file.metadata()["class_names"]) == ["background", "red", "grass"]


def test_both_entry_points_end_with_the_commands_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for main in (cli.main, vocabulary_cli.main):
        monkeypatch.setattr(sys, "argv", ["nerve", "--none"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(nerve_runtime, name) for name in nerve_runtime.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Segmentr'"):
        _ = nerve_runtime.Segmentr
