"""The real huggingface_hub against a stand-in of the hub on the loopback."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nerve_ref.weights.download import WeightStore, fetch
from nerve_ref.weights.errors import MirrorError
from nerve_ref.weights.hub import HuggingFaceHub
from tests.data.hub_server import serving
from tests.unit.nerve_ref.fake_hub import COMMIT, folders_in, write_lock_json

pytest.importorskip("huggingface_hub")

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
    fetched = hub.download("owner/whole", COMMIT, path, tmp_path)
    assert fetched == tmp_path / path
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


def test_a_file_that_is_not_there_is_named(hub: HuggingFaceHub, tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match=r"it no longer has the file more\.json"):
        hub.download("owner/whole", COMMIT, "more.json", tmp_path)


def test_a_file_that_was_damaged_since_is_fetched_again_though_the_library_would_keep_it(
    hub: HuggingFaceHub, tmp_path: Path
) -> None:
    pins = {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for path, content in FILES.items()
    }
    mirror = {"repository": "owner/whole", "revision": COMMIT, "files": pins}
    folders = folders_in(tmp_path)
    write_lock_json(folders.packaged_lock, whole={"licence": "MIT", "mirrors": [mirror]})
    store = WeightStore(hub, folders, lambda line: None, offline=False, locked=True)
    fetched = store.folder(fetch("whole", ("",), "no advice", store)) / "config.json"
    fetched.write_bytes(b"{}")
    assert hub.download("owner/whole", COMMIT, "config.json", fetched.parent).read_bytes() == b"{}"
    fetch("whole", ("",), "no advice", store)
    assert fetched.read_bytes() == CONFIG
