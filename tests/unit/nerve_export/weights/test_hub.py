"""The real huggingface_hub against a stand-in of the hub on the loopback."""

import hashlib
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from nerve_export.weights.hub import HuggingFaceHub, resolved_weights
from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.errors import MirrorError
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.errors import ResourceError
from tests.data.hub_server import serving
from tests.unit.nerve_ref.fake_hub import COMMIT

pytest.importorskip("huggingface_hub")

Usage = namedtuple("Usage", "total used free")
WEIGHTS = b"w" * 1000
CONFIG = b'{"model_type": "clip"}'
FILES = {"config.json": CONFIG, "unet/model.safetensors": WEIGHTS}


@pytest.fixture(scope="module")
def hub() -> Iterator[HuggingFaceHub]:
    with serving() as server:
        server.add("owner/whole", FILES, commit=COMMIT)
        yield HuggingFaceHub(server.address)


def test_a_branch_is_resolved_to_its_commit_sizes_of_all_and_hashes_of_large_files(hub: HuggingFaceHub) -> None:
    assert hub.files("owner/whole", "main") == (
        COMMIT,
        {
            "config.json": (len(CONFIG), None),
            "unet/model.safetensors": (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()),
        },
    )


@pytest.mark.parametrize("path", list(FILES))
def test_a_file_arrives_as_a_real_file_under_its_path(hub: HuggingFaceHub, tmp_path: Path, path: str) -> None:
    fetched = tmp_path / "file"
    hub.download("owner/whole", COMMIT, path, fetched, None)
    assert not fetched.is_symlink()
    assert fetched.read_bytes() == FILES[path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", r"it is gone or private \(the hub answered 401 or 404\)"),
        ("gated", "it is gated: accept its terms"),
        ("moved", "it no longer has the pinned commit"),
        ("ill", r"could not be reached or broke off \(BadRequestError: "),
    ],
)
def test_a_refusal_says_why_in_a_few_words(hub: HuggingFaceHub, name: str, message: str) -> None:
    with pytest.raises(MirrorError, match=message):
        hub.files(f"owner/{name}", COMMIT)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gated", "it is gated: accept its terms"), ("gone", "it is gone or private"), ("closed", "broke off .*403")],
)
def test_a_refused_file_says_why_in_a_few_words(hub: HuggingFaceHub, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(MirrorError, match=message):
        hub.download(f"owner/{name}", COMMIT, "config.json", tmp_path / "file", None)


def test_a_full_disk_is_no_fault_of_the_mirror(hub: HuggingFaceHub) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        hub.download("owner/whole", COMMIT, "config.json", Path("/dev/full"), None)
    assert not isinstance(caught.value, MirrorError)


def test_a_file_that_is_not_there_is_named(hub: HuggingFaceHub, tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match=r"it no longer has the file more\.json"):
        hub.download("owner/whole", COMMIT, "more.json", tmp_path / "file", None)


def test_row_63_too_little_space_for_all_of_edge_is_said_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, 6_000_000_000))
    backbones = Backbones("clip-vit-base-patch16", "stable-diffusion-2-1-base", "taesd")
    with pytest.raises(ResourceError, match=r"needs 6\.03 GB in .*weights, 6\.00 GB are free; free space, or name a "):
        resolved_weights(backbones, WeightChoice(), pytest.fail)
    assert list(tmp_path.iterdir()) == []
