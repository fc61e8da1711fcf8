"""Frames that go wrong while others go on: rows 14 and 20 of the fault table."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nerve_runtime import segmenter as segmenter_module
from nerve_runtime.backends import Backend
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.errors import ResourceError
from nerve_runtime.labels import IGNORE_LABEL
from nerve_runtime.segmenter import INVALID_FRAMES_LIMIT, Segmenter
from nerve_runtime.temporal import Temporal
from nerve_stream.cli import segment as cli
from tests.contracts.checkout import ROOMS
from tests.data.clips import halves, write_clip

LIMITED_RUN = """
import resource, sys
from pathlib import Path
import numpy as np
from nerve_runtime.backends import BackendOptions
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.errors import ResourceError
from tests.data.fake_bundle import make_fake_bundle
from tests.data.hand_made_graphs import PLANES, manifest_of, planes
folder = make_fake_bundle(Path(sys.argv[1]))
planes(folder / "readout.onnx")
session = OrtBackend(folder, manifest_of(folder, "readout", PLANES), BackendOptions(threads=1)).open_session("readout")
print(session.run({"size_hw": np.array([4, 7])})["plane"].shape)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 500_000_000, resource.RLIM_INFINITY))
try:
    session.run({"size_hw": np.array([40_000, 40_000])})
except ResourceError as error:
    print(error.exit_code, error)
print(session.run({"size_hw": np.array([5, 9])})["plane"].shape)
"""


class Infinite(FakeBackend):
    """Gives one infinite score in the first run of a stage."""

    def __init__(self, manifest: Manifest, stage: StageName) -> None:
        super().__init__(manifest)
        self._stage = stage

    def compute(self, stage: StageName, tensors: Mapping[str, Array]) -> dict[str, Array]:
        outputs = super().compute(stage, tensors)
        if stage == self._stage and self.runs[stage] == 1:
            next(iter(outputs.values()))[0, 0] = np.inf
        return outputs


def opened(bundle: Path, backend: Backend, **options: Any) -> Segmenter:
    return Segmenter.open(bundle, classes=["red", "grass", "sky"], backend=backend, cache_dir=None, **options)


def strict(line: str) -> Any:
    """Parse a line of JSON and refuse the words NaN and Infinity, which Python would read."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(line, parse_constant=refuse)


@pytest.mark.onnx
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc/self/statm: memory in use is not known")
def test_row_14_a_run_that_finds_no_memory_fails_alone_and_the_session_goes_on(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": ":".join(map(str, ROOMS)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED_RUN, str(tmp_path / "bundle")]
    ended = subprocess.run(
        command, env=environment, cwd=ROOMS[0], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    first, refused, last = ended.stdout.splitlines()
    assert (first, last) == ("(4, 7)", "(5, 9)")
    assert refused.startswith("6 stage 'readout' ran out of memory: ")


def test_row_14_the_segmenter_tries_the_next_frame_from_nothing(bundle: Path, manifest: Manifest) -> None:
    error = ResourceError("stage 'scores' ran out of memory")
    backend = FakeBackend(manifest, Faults(errors_at={("scores", 1): error}))
    with opened(bundle, backend, temporal=Temporal.plain(8)) as segmenter:
        assert segmenter.segment(halves()).keyframe
        with pytest.raises(ResourceError, match="'scores' ran out of memory"):
            segmenter.segment(halves())
        after = segmenter.segment(halves())
    assert (after.keyframe, after.valid) == (True, True)


@pytest.mark.parametrize("stage", ["scores", "mix", "walk"])
def test_row_20_one_infinite_score_anywhere_flags_the_whole_frame(
    bundle: Path, manifest: Manifest, stage: StageName
) -> None:
    with opened(bundle, Infinite(manifest, stage)) as segmenter, np.errstate(invalid="ignore"):
        bad, good = segmenter.segment(halves()), segmenter.segment(halves())
        assert (bad.valid, good.valid, segmenter.invalid_frames) == (False, True, 1)
    assert (bad.labels == IGNORE_LABEL).all()
    assert (bad.confidence == 0).all()
    assert IGNORE_LABEL not in good.labels


def test_row_20_after_five_bad_frames_in_a_row_it_is_not_ready_until_a_good_one(
    bundle: Path, manifest: Manifest
) -> None:
    assert INVALID_FRAMES_LIMIT == 5
    bad = frozenset({0, 1, 3, 4, 5, 6, 7})
    ready = []
    with opened(bundle, FakeBackend(manifest, Faults(nan_scores_at=bad))) as segmenter:
        assert segmenter.ready
        for _ in range(9):
            segmenter.segment(halves())
            ready.append(segmenter.ready)
        assert segmenter.invalid_frames == len(bad)
    assert ready == [True] * 7 + [False, True]
    assert not segmenter.ready  # closed


def run_with_nan(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest, bundle: Path, clip: Path, bad: frozenset[int], *words: object
) -> Any:
    backend = FakeBackend(manifest, Faults(nan_scores_at=bad))
    monkeypatch.setattr(segmenter_module, "open_backend", lambda *_, **__: backend)
    named = [str(clip), "--bundle", str(bundle), "--backend", "fake", "--classes", "red; sky"]
    return CliRunner().invoke(cli.app, [*named, *(str(word) for word in words)])


def test_row_20_json_lines_stay_json_and_say_which_frames_are_not_valid(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = tmp_path / "results.jsonl"
    clip = write_clip(tmp_path / "clip.mp4", 3)
    ended = run_with_nan(monkeypatch, manifest, bundle, clip, frozenset({1}), "--jsonl", lines, "--rle", "--json")
    assert ended.exit_code == 0, ended.output
    records = [strict(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [(record["valid"], bool(record["classes"])) for record in records] == [
        (True, True),
        (False, False),
        (True, True),
    ]
    summary = [strict(line) for line in ended.stdout.splitlines()][-1]
    assert summary["invalid"] == 1


def test_row_20_a_source_of_bad_frames_alone_ends_with_exit_code_7_and_still_valid_json(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = tmp_path / "results.jsonl"
    clip = write_clip(tmp_path / "clip.mp4", 3)
    ended = run_with_nan(monkeypatch, manifest, bundle, clip, frozenset(range(3)), "--jsonl", lines, "--json")
    assert ended.exit_code == 7, ended.output
    assert [strict(line)["valid"] for line in lines.read_text(encoding="utf-8").splitlines()] == [False] * 3
    assert all(strict(line) for line in ended.stdout.splitlines())
