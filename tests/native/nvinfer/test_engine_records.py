"""Engines that the C library refuses, in Python's words: by record, by ledger, by what they hold."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.engines import TENSORRT_VERSION
from nerve_bench.doubles.tensorrt import FakeTrt
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from tests.native.binding import NativeSegmenter, params_for
from tests.native.standin import (
    CLASS_SLOTS,
    TENSORRT_NATIVE,
    Standin,
    add_engines,
    refusal,
)

pytestmark = [pytest.mark.native, pytest.mark.slow]
ELSEWHERE = ", or trust whoever built it with trust_engines=True"
UNCHECKED = ", or run it as it is with allow_unchecked=True"
"""What Python offers besides; the C interface has no such options."""

Change = Callable[[Path, Ledger, Standin], object]
REFUSED: dict[str, Change] = {
    "not built here": lambda bundle, ledger, standin: add_engines(bundle),
    "another built here": lambda bundle, ledger, standin: (add_engines(bundle, ledger), _touch_engines(bundle)),
    "no engines": lambda bundle, ledger, standin: None,
    "engines of another family": lambda bundle, ledger, standin: add_engines(bundle, ledger, rtx=True),
    "another version": lambda bundle, ledger, standin: (add_engines(bundle, ledger), standin.become("10.16.2.3")),
    "another gpu": lambda bundle, ledger, standin: (add_engines(bundle, ledger), standin.become(capability="120")),
    "another system": lambda bundle, ledger, standin: add_engines(bundle, ledger, os_arch="linux-riscv64"),
    "another graph": lambda bundle, ledger, standin: add_engines(bundle, ledger, onnx_sha256="0" * 64),
    "failed parity": lambda bundle, ledger, standin: add_engines(bundle, ledger, parity="failed"),
    "never compared": lambda bundle, ledger, standin: add_engines(bundle, ledger, parity="not run"),
    "a damaged ledger": lambda bundle, ledger, standin: (add_engines(bundle, ledger), ledger.path.write_text("{}")),
    "a ledger with more": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), ledger.path.write_text(ledger.path.read_text().replace("{", '{"more": 1,', 1)),
    ),
    "a ledger that is cut": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), ledger.path.write_text(ledger.path.read_text()[:-9]),
    ),
    "a ledger that is a folder": lambda bundle, ledger, standin: (add_engines(bundle), _folder(ledger.path)),
    "a ledger behind a file": lambda bundle, ledger, standin: (
        add_engines(bundle), ledger.path.parent.parent.write_text(""),
    ),
    "an engine that was changed": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), _spoil_file(bundle / _engine_path(bundle, "scores")),
    ),
    "an engine that is a link": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), _link(bundle / _engine_path(bundle, "scores")),
    ),
    "TensorRT of another major version": lambda bundle, ledger, standin: (add_engines(bundle, ledger), standin.become("8.6.1.6")),
}  # fmt: skip


def _engine_path(bundle: Path, stage: str) -> str:
    return next(record.path for record in load_manifest(bundle).engines if record.stage == stage)


def _touch_engines(bundle: Path) -> Manifest:
    """Other engines than those of the ledger."""
    return add_engines(bundle, spoil=dict.fromkeys(load_manifest(bundle).stages, b"another"))


def _spoil_file(path: Path) -> int:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return path.write_bytes(content)


def _link(path: Path) -> Path:
    kept = path.rename(path.with_suffix(".kept"))
    path.symlink_to(kept)
    return kept


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("change", REFUSED)
def test_an_engine_is_refused_in_pythons_words(
    change: str, library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    REFUSED[change](bundle, ledger, standin)
    manifest = load_manifest(bundle)
    version = {"another version": "10.16.2.3", "TensorRT of another major version": "8.6.1.6"}.get(
        change, TENSORRT_VERSION
    )
    cudart = FakeCudart((12, 0)) if change == "another gpu" else FakeCudart()

    def of_python() -> None:
        trt = FakeTrt(manifest, cudart, version=version, rtx=False)
        with TrtBackend(bundle, manifest, library="tensorrt", trt=trt, cudart=cudart, ledger=ledger) as backend:
            backend.open_session("scores")

    def of_c() -> None:
        params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
        NativeSegmenter.open(library, bundle, params).close()

    code, message = refusal(of_python)
    assert refusal(of_c) == (code, message.replace(ELSEWHERE, "").replace(UNCHECKED, ""))


def test_the_ledger_of_a_user_without_xdg_data_home_is_in_their_home(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    standin: Standin,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    ledger = Ledger()
    assert ledger.path == tmp_path / ".local/share/nerve-deploy/engines.json"
    add_engines(bundle, ledger)
    NativeSegmenter.open(library, bundle, params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)).close()


ALIEN: dict[str, tuple[tuple[bytes, bytes], int, str]] = {
    "no header": ((b"standin engine", b"nothing of ours"), 4, "cannot load engines/tensorrt-sm89/{}: the plan has no header of this library; build it again with: nerve-build engines "),
    "other inputs": ((b"input frame", b"input image"), 3, "has inputs ['image'] and outputs ['head_affinity', 'local_weights']; it is not what its manifest says"),
    "another type": ((b"input frame 5", b"input frame 0"), 3, "has 'frame' as FLOAT (1, 128, 128, 3), not uint8 (1, 128, 128, 3); it is not what"),
    "another size": ((b"device 4 1 128", b"device 4 1 129"), 3, "has 'frame' as UINT8 (1, 129, 128, 3), not uint8 (1, 128, 128, 3); it is not what"),
    "an output on the host": ((b"local_weights 0 device", b"local_weights 0 host"), 3, "has 'local_weights' in the memory of the host; it is not what"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIEN)
def test_an_engine_that_is_not_what_its_manifest_says_is_refused(
    kind: str, library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    (old, new), code, expected = ALIEN[kind]
    add_engines(bundle)
    content = (bundle / _engine_path(bundle, "attention")).read_bytes()
    add_engines(bundle, ledger, spoil={"attention": content.replace(old, new, 1)})
    params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
    got, message = refusal(lambda: NativeSegmenter.open(library, bundle, params))
    assert got == code
    assert expected.format(Path(_engine_path(bundle, "attention")).name) in message


def test_an_engine_of_another_profile_than_the_manifest_lists_is_refused(
    library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    add_engines(bundle, class_slots=16)
    content = (bundle / _engine_path(bundle, "mix")).read_bytes()
    add_engines(bundle, ledger, spoil={"mix": content})
    params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
    code, message = refusal(lambda: NativeSegmenter.open(library, bundle, params))
    assert code == 3
    sizes = [f"[[{slots}, 1024], [{slots}, 1024], [{slots}, 1024]]" for slots in (16, CLASS_SLOTS)]
    assert (
        f"takes 'seed_scores' in {sizes[0]}, the manifest says {sizes[1]}; it is not what its manifest says" in message
    )
