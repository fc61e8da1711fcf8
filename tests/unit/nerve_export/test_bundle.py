"""A bundle is written whole or not at all, whoever dies or comes at the same time."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nerve_export import bundle as bundle_module
from nerve_export.bundle import bundle_lock, file_records, install, installed_manifest, staging_folder, write_manifest
from nerve_runtime.bundle.manifest import file_sha256, load_manifest, verify_file
from nerve_runtime.errors import BundleError, ResourceError
from tests.contracts.checkout import ROOT, rooms_environment
from tests.data.fake_bundle import make_fake_bundle

KEY, OTHER_KEY = "a" * 64, "b" * 64
PARTS = 40
SLOW_BUILDER = """
import sys, time
from pathlib import Path
from nerve_export.bundle import bundle_lock, install, staging_folder
from tests.data.fake_bundle import make_fake_bundle
out = Path(sys.argv[1])
with bundle_lock(out), staging_folder(out) as folder:
    print("staged", flush=True)
    for part in range({parts}):
        (folder / f"part-{{part}}.bin").write_bytes(bytes(10_000))
        time.sleep(0.002)
    make_fake_bundle(folder)
    install(folder, out)
    print("installed", flush=True)
"""
COUNTED_BUILDER = """
import sys, time
from pathlib import Path
from nerve_export import build as module
from nerve_export.bundle import install
from nerve_export.plan import make_plan
from nerve_runtime.bundle.manifest import load_manifest
from tests.data.fake_bundle import make_fake_bundle
def counted(folder, plan, key, resolved, targets, progress):
    print("building", flush=True)
    time.sleep(0.5)
    make_fake_bundle(folder, plan_key=key)
    install(folder, plan.out)
    return module.BuildResult(load_manifest(plan.out), (), None)
module._build_into = counted
plan = make_plan("tiny", out=Path(sys.argv[1]))
print(module.build(plan, (), print).manifest.plan_key, flush=True)
"""


def builder(script: str, out: Path) -> subprocess.Popen[str]:
    env = rooms_environment()
    command = [sys.executable, "-c", script, str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def leftovers(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name.endswith(".tmp"))


def is_whole(out: Path) -> bool:
    manifest = load_manifest(out)
    return all(verify_file(out, manifest, relative).is_file() for relative in manifest.files)


def test_a_staging_folder_is_empty_hidden_and_beside_the_bundle(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "tiny") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".tiny.")
        assert list(folder.iterdir()) == []


def test_a_staging_folder_is_gone_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staging_folder(tmp_path / "tiny") as folder:
            (folder / "half.onnx").write_bytes(b"half")
            raise KeyError("anything")

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=r"cannot write .*No space left.*choose another place with --out"),
        staging_folder(tmp_path / "tiny"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_installed_bundle_is_what_was_staged(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    with staging_folder(out) as folder:
        make_fake_bundle(folder)
        install(folder, out)
    assert is_whole(out)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_new_bundle_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    out = make_fake_bundle(tmp_path / "tiny")
    (out / "only-in-the-old-one.txt").write_text("old")
    with staging_folder(out) as folder:
        make_fake_bundle(folder, preset="new")
        install(folder, out)
    assert load_manifest(out).preset == "new"
    assert not (out / "only-in-the-old-one.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_empty_folder_may_be_taken(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    with staging_folder(out) as folder:
        make_fake_bundle(folder)
        install(folder, out)
    assert is_whole(out)


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "wedding.jpg").write_bytes(b"dear")
    staged = make_fake_bundle(tmp_path / ".photos.1.tmp")
    with pytest.raises(
        BundleError, match=r"photos exists and is no bundle \(its manifest\.json is missing or not ours\)"
    ):
        install(staged, out)
    shutil.rmtree(staged)
    assert [path.name for path in out.iterdir()] == ["wedding.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_manifest_of_something_else_does_not_make_a_folder_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "app"
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "my web app"}', encoding="utf-8")
    (out / "thesis.tex").write_text("years of work", encoding="utf-8")
    staged = make_fake_bundle(tmp_path / ".app.1.tmp")
    with pytest.raises(BundleError, match=r"app exists and is no bundle"):
        install(staged, out)
    assert (out / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_what_a_killed_builder_left_is_swept_by_the_next_and_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    for name in (".tiny.123.tmp", ".tiny.old.123.tmp", ".other.123.tmp", "tiny.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.onnx").write_bytes(b"half")
    with bundle_lock(out):
        assert leftovers(out) == [".other.123.tmp", "tiny.tmp"]


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(ResourceError, match=r"cannot write beside .*choose another place with --out"),
        bundle_lock(tmp_path / "file" / "tiny"),
    ):
        pass


def test_a_second_builder_that_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "LOCK_TIMEOUT_S", 0.1)
    first = builder(SLOW_BUILDER.format(parts=100_000), tmp_path / "tiny")
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == "staged\n"
        with (
            pytest.raises(ResourceError, match=r"another builder has been making .*tiny for 0\.1 s; wait or stop it"),
            bundle_lock(tmp_path / "tiny"),
        ):
            pass
    finally:
        first.kill()
        first.communicate()


def test_records_are_sorted_name_every_file_and_leave_the_manifest_out(tmp_path: Path) -> None:
    folder = make_fake_bundle(tmp_path / "tiny")
    (folder / "engines" / "rtx-sm89").mkdir(parents=True)
    (folder / "engines" / "rtx-sm89" / "walk.engine").write_bytes(b"plan")
    records = file_records(folder)
    assert list(records) == sorted(records)
    assert "manifest.json" not in records
    record = records["engines/rtx-sm89/walk.engine"]
    assert (record.bytes, record.sha256) == (4, file_sha256(folder / "engines" / "rtx-sm89" / "walk.engine"))


def test_a_manifest_that_is_written_reads_back_as_itself(tmp_path: Path) -> None:
    manifest = load_manifest(make_fake_bundle(tmp_path / "one"))
    (tmp_path / "two").mkdir()
    write_manifest(tmp_path / "two", manifest)
    assert load_manifest(tmp_path / "two") == manifest


def test_a_bundle_of_the_same_plan_is_found(tmp_path: Path) -> None:
    out = make_fake_bundle(tmp_path / "tiny", plan_key=KEY)
    assert installed_manifest(out, KEY) == load_manifest(out)


@pytest.mark.parametrize("damage", ["another key", "a changed file", "a missing file", "no manifest", "no folder"])
def test_a_bundle_that_is_another_or_damaged_is_built_again(damage: str, tmp_path: Path) -> None:
    out = make_fake_bundle(tmp_path / "tiny", plan_key=KEY)
    harm: dict[str, Callable[[], object]] = {
        "another key": lambda: None,
        "a changed file": lambda: (out / "walk.onnx").write_bytes((out / "walk.onnx").read_bytes()[:-1] + b"!"),
        "a missing file": (out / "walk.onnx").unlink,
        "no manifest": (out / "manifest.json").unlink,
        "no folder": lambda: out.rename(tmp_path / "gone"),
    }
    harm[damage]()
    assert installed_manifest(out, OTHER_KEY if damage == "another key" else KEY) is None


def test_a_builder_killed_at_any_moment_leaves_no_partial_bundle_and_the_next_one_builds(tmp_path: Path) -> None:
    out, moments = tmp_path / "tiny", random.Random(17)
    for _ in range(4):
        killed = builder(SLOW_BUILDER.format(parts=PARTS), out)
        assert killed.stdout is not None
        assert killed.stdout.readline() == "staged\n"
        time.sleep(moments.uniform(0, 0.12))
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert not out.exists() or is_whole(out)
    following = builder(SLOW_BUILDER.format(parts=PARTS), out)
    printed, errors = following.communicate(timeout=60)
    assert printed == "staged\ninstalled\n", errors
    assert is_whole(out)
    assert leftovers(out) == []


def test_builders_at_the_same_time_build_once(tmp_path: Path) -> None:
    builders = [builder(COUNTED_BUILDER, tmp_path / "tiny") for _ in range(3)]
    ended = [process.communicate(timeout=60) for process in builders]
    assert [process.returncode for process in builders] == [0, 0, 0], ended
    printed = [out.split() for out, _ in ended]
    assert sum(words.count("building") for words in printed) == 1
    assert len({words[-1] for words in printed}) == 1
