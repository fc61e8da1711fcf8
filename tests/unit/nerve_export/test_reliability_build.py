"""Builds that are killed, crowded, or find no room: rows 16 to 19 of the fault table; and damaged real bundles: 2, 6, 20."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from nerve_export import bundle as bundle_module
from nerve_export.bundle import bundle_lock, installed_manifest, staging_folder
from nerve_runtime.bundle.graph_check import ALLOWED_OPERATORS, check_graph
from nerve_runtime.bundle.manifest import file_sha256, load_manifest, manifest_bytes, verify_bundle, verify_file
from nerve_runtime.errors import BundleError, ResourceError
from tests.contracts.checkout import LAUNCHERS, ROOT, rooms_environment
from tests.data.fake_bundle import make_fake_bundle

KEY = "a" * 64
BUILDERS = 8
MOMENTS = 10
WAIT_S = 30

# What `nerve-build` does about one key, with a small fake in place of the export. It has imported all when it says so,
# and begins when told to. A process of its own: a fork of pytest would have its locks, but not the threads that hold them.
BUILDER = """
import signal, sys, time
from pathlib import Path
from nerve_export.bundle import bundle_lock, install, installed_manifest, staging_folder
from tests.data.fake_bundle import make_fake_bundle

out, key, build_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
if not sys.stdin.readline():
    sys.exit("nobody is there any more")
with bundle_lock(out):
    if installed_manifest(out, key) is not None:
        print("hit", flush=True)
    else:
        with staging_folder(out) as folder:
            print("building", flush=True)
            time.sleep(build_s)
            make_fake_bundle(folder, plan_key=key)
            install(folder, out)
            print("built", flush=True)
"""


class Builder:
    """A process that builds once."""

    def __init__(self, out: Path, build_s: float) -> None:
        environment = rooms_environment()
        command = [sys.executable, "-c", BUILDER, str(out), KEY, str(build_s)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self) -> None:
        assert self.process.stdin is not None
        assert self.read_line() == "ready"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@pytest.fixture
def started() -> Iterator[Callable[[Path, float], Builder]]:
    """Starts builders, and leaves none behind."""
    builders: list[Builder] = []

    def start(out: Path, build_s: float) -> Builder:
        builders.append(Builder(out, build_s))
        return builders[-1]

    yield start
    for builder in builders:
        builder.process.kill()
        builder.process.communicate()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".tmp"))


# Row 18


def test_row_18_of_eight_builders_one_builds_and_seven_hit(
    tmp_path: Path, started: Callable[[Path, float], Builder]
) -> None:
    builders = [started(tmp_path / "tiny", 0.3) for _ in range(BUILDERS)]
    for builder in builders:
        builder.begin()
    printed = [builder.process.communicate(timeout=WAIT_S)[0].split() for builder in builders]
    assert [builder.process.returncode for builder in builders] == [0] * BUILDERS
    assert sorted(printed) == [["building", "built"], *[["hit"]] * (BUILDERS - 1)]
    assert leftovers(tmp_path) == []


def test_row_18_the_lock_of_a_builder_that_dies_is_free_at_once(
    tmp_path: Path, started: Callable[[Path, float], Builder]
) -> None:
    holder = started(tmp_path / "tiny", 600)
    holder.begin()
    assert holder.read_line() == "building"
    holder.end(signal.SIGKILL)
    before = time.monotonic()
    with bundle_lock(tmp_path / "tiny"):
        assert time.monotonic() - before < 2
    assert leftovers(tmp_path) == []


def test_row_18_waiting_for_a_lock_ends(
    tmp_path: Path, started: Callable[[Path, float], Builder], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = started(tmp_path / "tiny", 600)
    holder.begin()
    assert holder.read_line() == "building"
    monkeypatch.setattr(bundle_module, "LOCK_TIMEOUT_S", 0.2)
    with (
        pytest.raises(ResourceError, match=r"another builder has been making .*tiny for 0\.2 s; wait or stop it"),
        bundle_lock(tmp_path / "tiny"),
    ):
        pytest.fail("the lock was taken twice")


# Row 17


@pytest.mark.parametrize("old", [False, True], ids=["first build", "rebuild"])
def test_row_17_a_builder_killed_at_ten_moments_leaves_no_partial_bundle(
    old: bool, tmp_path: Path, started: Callable[[Path, float], Builder]
) -> None:
    out, moments = tmp_path / "tiny", random.Random(17)
    if old:
        make_fake_bundle(out, plan_key="b" * 64)
    *killed, last = [started(out, 0.02) for _ in range(MOMENTS + 1)]
    for moment, builder in enumerate(killed):
        builder.begin()
        time.sleep(moments.uniform(0, 0.08))
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[moment % 3]
        assert builder.end(number) in (-number, 0)  # one that was quicker has ended well
        if out.exists():
            verify_bundle(out, load_manifest(out))
            shutil.rmtree(out)
            if old:
                make_fake_bundle(out, plan_key="b" * 64)
    last.begin()
    assert last.process.wait(WAIT_S) == 0
    assert installed_manifest(out, KEY) is not None
    assert leftovers(tmp_path) == []


def test_row_17_a_bundle_that_a_killed_builder_had_moved_aside_comes_back(tmp_path: Path) -> None:
    aside = make_fake_bundle(tmp_path / ".tiny.old.123.tmp", preset="old")
    make_fake_bundle(tmp_path / ".tiny.123.tmp", preset="new")
    with bundle_lock(tmp_path / "tiny"):
        assert load_manifest(tmp_path / "tiny").preset == "old"
    assert not aside.exists()
    make_fake_bundle(tmp_path / ".tiny.old.456.tmp", preset="older")
    with bundle_lock(tmp_path / "tiny"):
        assert load_manifest(tmp_path / "tiny").preset == "old"
    assert leftovers(tmp_path) == []


# Row 16


@contextmanager
def small_files(size_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk: the system says so with an error, not a signal, in Python.

    Only around what is tried: pytest itself may be writing to a larger file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_until_full(out: Path, write: Callable[[Path], object]) -> None:
    """Begin a build at `out`, then write more than fits."""
    with bundle_lock(out), staging_folder(out) as folder, small_files(1000):
        write(folder)


def test_row_16_a_disk_that_fills_up_during_a_build_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path,
) -> None:
    out = make_fake_bundle(tmp_path / "tiny", preset="old")
    with pytest.raises(ResourceError, match=r"cannot write .*File too large.*another place with --out") as refused:
        write_until_full(out, lambda folder: (folder / "walk.onnx").write_bytes(bytes(100_000)))
    assert refused.value.exit_code == 6
    assert load_manifest(out).preset == "old"
    verify_bundle(out, load_manifest(out))
    assert leftovers(tmp_path) == []


def test_row_16_a_disk_that_is_full_at_the_manifest_installs_nothing(
    tmp_path: Path,
) -> None:
    made = load_manifest(make_fake_bundle(tmp_path / "made"))
    out = tmp_path / "tiny"
    with pytest.raises(ResourceError, match=r"cannot write .*File too large"):
        write_until_full(out, lambda folder: bundle_module.write_manifest(folder, made))
    assert not out.exists()
    assert leftovers(tmp_path) == []


# Row 19


def test_row_19_a_place_where_nothing_can_be_made_is_told_and_nothing_is_made_elsewhere() -> None:
    with (
        pytest.raises(
            ResourceError, match=r"cannot write beside /proc/nowhere/tiny: .*choose another place with --out"
        ),
        bundle_lock(Path("/proc/nowhere/tiny")),
    ):
        pytest.fail("the lock was taken")
    with pytest.raises(ResourceError, match="cannot write") as refused, staging_folder(Path("/proc/tiny")):
        pytest.fail("a folder was made")
    assert refused.value.exit_code == 6


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may be read but not written, also where the tests are run by root, whom no mode stops."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_row_19_a_folder_that_may_not_be_written_is_told(read_only: Path) -> None:
    for out in (read_only / "tiny", read_only / "deep" / "tiny"):
        with (
            pytest.raises(ResourceError, match=r"cannot write beside .*Permission denied.*choose another place"),
            bundle_lock(out),
        ):
            pytest.fail("the lock was taken")
    assert list(read_only.iterdir()) == []


def test_an_error_of_the_build_itself_is_not_taken_for_one_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="weights"), bundle_lock(tmp_path / "tiny"):
        raise PermissionError("weights")
    with bundle_lock(tmp_path / "tiny"):
        assert leftovers(tmp_path) == []


# With the real builder and the real bundle


@pytest.mark.slow
@pytest.mark.onnx
def test_row_17_a_real_build_killed_with_its_children_leaves_nothing_and_the_next_one_builds(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    environment = rooms_environment()
    command = [sys.executable, str(LAUNCHERS["nerve-build"]), "--out", str(out), "--target", "ort", "--json"]
    for wait_s, number in ((3.0, signal.SIGKILL), (9.0, signal.SIGTERM), (15.0, signal.SIGINT)):
        builder = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            # A shell starts what it puts in the background with Ctrl-C ignored, and children would inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(wait_s)
        os.killpg(builder.pid, number)
        assert builder.wait(20) != 0
        assert not out.exists()
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    verify_bundle(out, load_manifest(out))
    assert leftovers(tmp_path) == []


@pytest.fixture(scope="module")
def real_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny bundle to damage."""
    from tests.data.tiny_bundle import tiny_bundle_folder

    return Path(shutil.copytree(tiny_bundle_folder(), tmp_path_factory.mktemp("real") / "tiny"))


@pytest.mark.onnx
def test_row_2_bits_flipped_in_the_real_bundle_are_found(real_bundle: Path) -> None:
    manifest, rng = load_manifest(real_bundle), random.Random(5)
    sizes = {name: (real_bundle / name).stat().st_size for name in (*manifest.files, "manifest.json")}
    for _ in range(60):
        name = rng.choices(list(sizes), weights=[size + 100_000 for size in sizes.values()])[0]
        at, bit = rng.randrange(sizes[name]), 1 << rng.randrange(8)
        with (real_bundle / name).open("r+b") as stream:
            stream.seek(at)
            kept = stream.read(1)
            stream.seek(at)
            stream.write(bytes([kept[0] ^ bit]))
            stream.flush()
            with pytest.raises(BundleError, match=r"sha256|not a valid manifest"):
                verify_file(real_bundle, load_manifest(real_bundle), name)
            stream.seek(at)
            stream.write(kept)
    verify_bundle(real_bundle, load_manifest(real_bundle))


@pytest.mark.onnx
def test_row_6_every_graph_of_the_real_bundle_passes_the_check(real_bundle: Path) -> None:
    import onnx

    manifest = load_manifest(real_bundle)
    used = set()
    for record in manifest.stages.values():
        check_graph(real_bundle, record.onnx, opset=manifest.opset, external_data=record.external_data)
        used |= {node.op_type for node in onnx.load(real_bundle / record.onnx, load_external_data=False).graph.node}
    assert {"Conv", "MatMul", "Softmax"} <= used <= ALLOWED_OPERATORS


@pytest.mark.onnx
def test_row_20_weights_of_nan_flag_every_frame_and_end_the_command_with_7(real_bundle: Path, tmp_path: Path) -> None:
    import cv2
    import numpy as np
    import onnx

    folder = Path(shutil.copytree(real_bundle, tmp_path / "nan"))
    manifest = load_manifest(folder)
    path = folder / manifest.stages["scores"].onnx
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        if weights.ndim == 4:  # the first convolution: all that follows is NaN too
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(weights, np.nan), tensor.name))
    onnx.save(model, path)
    record = manifest.files[path.name].model_copy(update={"bytes": path.stat().st_size, "sha256": file_sha256(path)})
    changed = manifest.model_copy(update={"files": {**manifest.files, path.name: record}})
    (folder / "manifest.json").write_bytes(manifest_bytes(changed))
    cv2.imwrite(str(tmp_path / "frame.png"), np.full((64, 96, 3), 90, dtype=np.uint8))
    words = [str(tmp_path / "frame.png"), "--bundle", str(folder), "--backend", "ort", "--threads", "1"]
    words += ["--classes", "grass; sky", "--masks", str(tmp_path / "masks"), "--jsonl", str(tmp_path / "frames.jsonl")]
    environment = rooms_environment(XDG_CACHE_HOME=str(tmp_path))
    command = [sys.executable, str(LAUNCHERS["nerve-segment"]), *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 7, ended.stderr
    assert "came out with scores that are not finite" in " ".join(ended.stderr.split())
    (line,) = (tmp_path / "frames.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["valid"] is False
    (mask,) = (tmp_path / "masks").glob("*.png")
    labels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert np.unique(labels).tolist() == [255]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
