"""No output replaces a source or another output; what cannot be read ends in one line and the documented exit code."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
import typer

from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import BundleError, SourceError, UsageError
from nerve_runtime.vocabulary.text_encoder import default_cache_dir
from nerve_stream.cli.input import exit_codes
from nerve_stream.cli.options import OutputOptions
from nerve_stream.cli.plan import chosen_outputs
from nerve_stream.outputs.planning import Outputs, refuse_conflicts
from nerve_stream.sources.opening import open_frames

TOO_LONG = "x" * 300


def _outputs(overlay: Path | None = None, masks: Path | None = None, jsonl: Path | None = None) -> Outputs:
    return chosen_outputs(OutputOptions(overlay, masks, jsonl=jsonl, force=True))


def test_masks_do_not_replace_the_pictures_they_are_made_from(tmp_path: Path) -> None:
    picture = tmp_path / "frame_000000.png"
    picture.write_bytes(b"a picture")
    for source in (tmp_path, picture):
        with pytest.raises(UsageError, match=r"is the source itself|holds the source"):
            refuse_conflicts([str(source)], [_outputs(masks=tmp_path)])


def test_two_outputs_with_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"two outputs would be written to .*same\.mp4"):
        refuse_conflicts(["0"], [_outputs(overlay=tmp_path / "same.mp4", jsonl=tmp_path / "a" / ".." / "same.mp4")])


def test_the_output_of_one_source_does_not_replace_the_next_source(tmp_path: Path) -> None:
    second = tmp_path / "x.a.mp4"
    second.write_bytes(b"a film")
    with pytest.raises(UsageError, match="is the source itself"):
        refuse_conflicts(["a.mp4", str(second)], [_outputs(overlay=second), _outputs(overlay=tmp_path / "x.b.mp4")])


def test_outputs_beside_the_sources_are_fine(tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    source.write_bytes(b"a film")
    outputs = [_outputs(tmp_path / "o.mp4", tmp_path / "masks", tmp_path / "o.jsonl")]
    refuse_conflicts([str(source)], outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"], "the check itself writes nothing"


def test_a_source_whose_name_is_too_long_is_a_source_error() -> None:
    with pytest.raises(SourceError, match="cannot be read: File name too long"):
        open_frames(TOO_LONG)


def test_a_bundle_whose_name_is_too_long_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        load_manifest(Path(TOO_LONG))


def test_any_other_refusal_of_the_system_is_one_line_and_exit_code_6(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, exit_codes(verbose=False):
        raise PermissionError(13, "Permission denied", "somewhere")
    assert ended.value.exit_code == 6
    assert capsys.readouterr().err == (
        "error: [Errno 13] Permission denied: 'somewhere'; check the path and its permissions\n"
    )


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    assert default_cache_dir() is None


@pytest.mark.onnx
@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_telemetry_of_onnxruntime_is_off_before_it_is_loaded_unless_the_user_chose(
    given: str | None, expected: str
) -> None:
    program = (
        "import os, sys\n"
        "from nerve_runtime.backends.ort import import_onnxruntime\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "import_onnxruntime()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)} | ({"ORT_DISABLE_TELEMETRY": given} if given else {})
    ended = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == expected
