"""Bundles of the hub, fetched by the real huggingface_hub from a stand-in of the hub on the loopback."""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from nerve_runtime import BundleError, CompatibilityError, NerveError, ResourceError, Segmenter, UsageError
from nerve_runtime.bundle.hub import HubAddress, UnreachableError, bundle_folder, fetched_bundles, hub_errors
from nerve_runtime.bundle.manifest import MANIFEST_LIMIT_BYTES, load_manifest, verify_bundle
from tests.contracts.checkout import ROOT
from tests.data.fake_bundle import list_engine, make_fake_bundle, write_manifest
from tests.data.hub_server import TOKEN, HubServer, files_in, in_use, serving

LARGE = "walk.onnx"
LARGE_BYTES = 1_000_000
FETCH = """
import signal
import sys
import huggingface_hub.constants as constants
from nerve_runtime.bundle import bundle_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, which ignores it
constants.DOWNLOAD_CHUNK_SIZE = 1 << 16  # written to disk in pieces of this size; 10 MB otherwise
bundle_folder(sys.argv[1])
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serving() as server, in_use(server, tmp_path / "cache"):
        yield server


@pytest.fixture
def commit(hub: HubServer, tmp_path: Path) -> str:
    """The commit of a bundle on the hub, beside files that belong to none."""
    folder = make_fake_bundle(tmp_path / "published")
    return hub.add("owner/whole", files_in(folder) | {"README.md": b"# card", "notes/other.bin": b"x" * 100})


def _large_bundle(hub: HubServer, folder: Path) -> str:
    make_fake_bundle(folder)
    (folder / LARGE).write_bytes(os.urandom(LARGE_BYTES))
    write_manifest(folder)
    return hub.add("owner/large", files_in(folder))


def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_commit_is_fetched_once_and_only_what_its_manifest_lists(hub: HubServer, commit: str) -> None:
    folder = bundle_folder(f"hf://owner/whole@{commit}")
    manifest = load_manifest(folder)
    verify_bundle(folder, manifest)
    assert sorted(files_in(folder)) == sorted(["manifest.json", *manifest.files])
    assert hub.fetched()[0] == "manifest.json"
    assert folder == fetched_bundles() / "owner--whole" / commit
    hub.asked.clear()
    lock = folder.parent / f".{commit}.lock"
    lock.unlink()
    assert bundle_folder(Path(f"hf://owner/whole@{commit}")) == folder
    assert hub.asked == []
    assert not lock.exists()  # the cache of an image may be read-only


def test_a_segmenter_opens_an_address(hub: HubServer, commit: str) -> None:
    with Segmenter.open(f"hf://owner/whole@{commit}", ["grass", "road"], backend="fake", cache_dir=None) as segmenter:
        assert segmenter.class_names == ("grass", "road")


def test_a_folder_stays_what_it_is(tmp_path: Path) -> None:
    assert bundle_folder(str(tmp_path)) == tmp_path
    assert bundle_folder("hf") == Path("hf")


def test_a_branch_is_resolved_and_its_commit_is_told(
    hub: HubServer, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert bundle_folder("hf://owner/whole").name == commit
    assert caplog.messages == [f"hf://owner/whole is a name that can move; now it is hf://owner/whole@{commit}"]


def test_strict_takes_a_commit_only(hub: HubServer, commit: str) -> None:
    with pytest.raises(UsageError, match="is not pinned: strict takes a commit of 40 hex digits after @"):
        bundle_folder("hf://owner/whole@main", strict=True)
    assert hub.asked == []
    assert bundle_folder(f"hf://owner/whole@{commit}", strict=True).name == commit


def test_row_50_a_branch_that_moved_is_noticed(
    hub: HubServer, commit: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle_folder("hf://owner/whole@main")
    moved = hub.add("owner/whole", files_in(tmp_path / "published"))
    assert bundle_folder("hf://owner/whole@main").name == moved
    assert f"hf://owner/whole: main moved from commit {commit} to {moved}" in caplog.messages


def test_row_51_offline_opens_what_was_fetched_and_says_so(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bundle_folder("hf://owner/whole@main")
    caplog.clear()
    _offline(monkeypatch)
    assert bundle_folder(f"hf://owner/whole@{commit}", strict=True) == folder
    assert caplog.messages == []
    assert bundle_folder("hf://owner/whole@main") == folder
    assert re.search(r"HF_HUB_OFFLINE is set.*; opened is [0-9a-f]{40}, its commit when", caplog.messages[0])


def test_row_51_offline_refuses_what_was_not_fetched(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offline(monkeypatch)
    for revision in (commit, "main"):
        with pytest.raises(UnreachableError, match="cannot be asked for: HF_HUB_OFFLINE is set; unset it"):
            bundle_folder(f"hf://owner/whole@{revision}")


def test_row_51_without_a_network_the_last_commit_of_a_branch_opens(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle_folder("hf://owner/whole@main")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert bundle_folder("hf://owner/whole@main").name == commit
    assert "could not be reached or broke off (ConnectError: " in caplog.messages[-1]
    with pytest.raises(UnreachableError, match="owner/other: the hub could not be reached") as raised:
        bundle_folder("hf://owner/other")
    assert raised.value.exit_code == 6


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gone", BundleError, "the hub has no such repository, or it is private; check the name, or log in"),
        ("gated", ResourceError, "is gated: accept its terms on the hub, then log in with `hf auth login`"),
        ("moved", BundleError, "the repository has no revision main; check it"),
        ("closed", ResourceError, r"the hub refuses \(HTTP 403\): there is no token, or it has no rights"),
        ("ill", ResourceError, r"could not be reached or broke off \(BadRequestError: "),
    ],
)
def test_row_52_a_refusal_is_one_sentence(hub: HubServer, name: str, kind: type[NerveError], message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        bundle_folder(f"hf://owner/{name}@main")
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_row_52_a_repository_without_a_bundle_is_named(hub: HubServer) -> None:
    commit = hub.add("owner/model", {"config.json": b"{}"})
    with pytest.raises(BundleError, match=r"the repository has no manifest\.json; it holds no bundle"):
        bundle_folder(f"hf://owner/model@{commit}")


def test_row_52_a_manifest_of_something_else_is_named(hub: HubServer) -> None:
    commit = hub.add("owner/extension", {"manifest.json": b"{}"})
    with pytest.raises(BundleError, match=r"holds no bundle that can be opened: .*is not a valid manifest"):
        bundle_folder(f"hf://owner/extension@{commit}")


def test_row_53_a_swapped_file_is_refused_and_fetched_again_later(hub: HubServer, commit: str) -> None:
    address = f"hf://owner/whole@{commit}"
    hub.swapped["text.onnx"] = b"DUMMY bytes of text"
    with pytest.raises(BundleError, match=r"text\.onnx came with sha256 \w{12}\.\.\., its manifest says"):
        bundle_folder(address)
    assert not (fetched_bundles() / "owner--whole" / commit).exists()
    hub.swapped.clear()
    hub.asked.clear()
    folder = bundle_folder(address)
    verify_bundle(folder, load_manifest(folder))
    assert "attention.onnx" not in hub.fetched()


def test_row_53_a_file_longer_than_the_manifest_says_is_refused(hub: HubServer, commit: str) -> None:
    hub.swapped["text.onnx"] = b"x" * 500
    with pytest.raises(BundleError, match=r"text\.onnx is longer than 19 bytes, which it may not be"):
        bundle_folder(f"hf://owner/whole@{commit}")


def test_row_53_a_manifest_without_end_is_refused(hub: HubServer) -> None:
    commit = hub.add("owner/endless", {"manifest.json": b" " * (MANIFEST_LIMIT_BYTES + 1)})
    with pytest.raises(BundleError, match=r"manifest\.json is longer than 4000000 bytes"):
        bundle_folder(f"hf://owner/endless@{commit}")


@pytest.mark.parametrize("path", ["d/" * 1500 + "d", "n" * 300])
def test_row_53_a_path_that_no_disk_takes_is_refused(hub: HubServer, tmp_path: Path, path: str) -> None:
    folder = make_fake_bundle(tmp_path / "published")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][path] = {"bytes": 1, "sha256": "0" * 64}
    address = hub.add("owner/deep", files_in(folder) | {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match=rf"has {len(path)} characters, expected at most 200; tell its owner"):
        bundle_folder(f"hf://owner/deep@{address}")


def test_row_54_a_cut_connection_goes_on_where_it_was_cut(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    commit = _large_bundle(hub, tmp_path / "published")
    hub.cuts[LARGE] = [400_000]
    folder = bundle_folder(f"hf://owner/large@{commit}")
    assert (folder / LARGE).read_bytes() == (tmp_path / "published" / LARGE).read_bytes()
    ranges = [asked for _, path, asked in hub.asked if path.endswith(LARGE)]
    assert ranges == ["", f"bytes={400_000 // (1 << 16) * (1 << 16)}-"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_row_54_a_killed_download_goes_on(hub: HubServer, tmp_path: Path, how: signal.Signals) -> None:
    commit = _large_bundle(hub, tmp_path / "published")
    address = f"hf://owner/large@{commit}"
    hub.stalls[LARGE] = 400_000
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "PYTHONPATH": str(ROOT / "runtime")}
    fetching = subprocess.Popen([sys.executable, "-c", FETCH, address], env=environment, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(60)
    unfinished = fetched_bundles() / "owner--large" / f"{commit}.unfinished" / LARGE
    _wait_for_bytes(unfinished, 1 << 16)
    fetching.send_signal(how)
    assert fetching.wait(60) != 0
    here = unfinished.stat().st_size
    hub.asked.clear()
    folder = bundle_folder(address)
    assert [asked for _, path, asked in hub.asked if path.endswith(LARGE)] == [f"bytes={here}-"]
    assert hub.fetched()[:2] == ["manifest.json", LARGE]
    verify_bundle(folder, load_manifest(folder))


def test_the_bar_counts_all_bytes_and_begins_with_those_of_before(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    class Bar(huggingface_hub.utils.tqdm):  # type: ignore[name-defined]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**{**settings, "disable": False, "file": io.StringIO()})
            bars.append((self, self.n))

    address = f"hf://owner/whole@{commit}"
    hub.swapped["text.onnx"] = b"DUMMY bytes of text"
    with pytest.raises(BundleError):
        bundle_folder(address)
    hub.swapped.clear()
    unfinished = fetched_bundles() / "owner--whole" / f"{commit}.unfinished"
    here = sum(path.stat().st_size for path in unfinished.iterdir() if path.name != "manifest.json")
    utilities = SimpleNamespace(tqdm=Bar, build_hf_headers=dict)
    monkeypatch.setattr("nerve_runtime.bundle.hub._hub_utilities", lambda: utilities)
    manifest = load_manifest(bundle_folder(address))
    ((bar, began),) = [(bar, began) for bar, began in bars if bar.total is not None]
    assert (began, bar.n, bar.total) == (here, bar.total, sum(record.bytes for record in manifest.files.values()))
    assert here > 0


def _wait_for_bytes(path: Path, least: int) -> None:
    """Wait, for as long as the test may take, until a file has grown."""
    while not path.is_file() or path.stat().st_size < least:
        os.sched_yield()


def test_row_55_a_full_disk_is_found_before_the_first_graph(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(ResourceError, match=r"takes 0\.00 GB more in .*, 0\.00 GB are free; free space"):
        bundle_folder(f"hf://owner/whole@{commit}")
    assert hub.fetched() == ["manifest.json"]


def test_engines_are_not_fetched(hub: HubServer, tmp_path: Path) -> None:
    folder = make_fake_bundle(tmp_path / "published")
    engine = list_engine(folder)
    commit = hub.add("owner/engines", files_in(folder))
    fetched = bundle_folder(f"hf://owner/engines@{commit}")
    assert engine not in hub.fetched()
    assert load_manifest(fetched).engines == ()
    verify_bundle(fetched, load_manifest(fetched))


def test_a_bundle_with_engines_goes_on_where_it_broke_off(hub: HubServer, tmp_path: Path) -> None:
    folder = make_fake_bundle(tmp_path / "published")
    list_engine(folder)
    address = f"hf://owner/engines@{hub.add('owner/engines', files_in(folder))}"
    hub.swapped["text.onnx"] = b"DUMMY bytes of text"
    with pytest.raises(BundleError, match=r"text\.onnx came with"):
        bundle_folder(address)
    hub.swapped.clear()
    fetched = bundle_folder(address)  # the manifest of before, without engines, is no beginning of this one
    verify_bundle(fetched, load_manifest(fetched))


def test_a_file_that_is_too_long_already_is_fetched_anew(hub: HubServer, commit: str) -> None:
    unfinished = fetched_bundles() / "owner--whole" / f"{commit}.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "text.onnx").write_bytes(b"x" * 500)
    folder = bundle_folder(f"hf://owner/whole@{commit}")
    verify_bundle(folder, load_manifest(folder))


def test_an_empty_file_of_a_bundle_is_there(hub: HubServer, tmp_path: Path) -> None:
    folder = make_fake_bundle(tmp_path / "published")
    (folder / "empty.txt").touch()
    files = {path: record.model_dump() for path, record in load_manifest(folder).files.items()}
    files["empty.txt"] = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    write_manifest(folder, files=files)
    fetched = bundle_folder(f"hf://owner/empty@{hub.add('owner/empty', files_in(folder))}")
    assert (fetched / "empty.txt").read_bytes() == b""


def test_a_signature_in_an_address_is_not_told() -> None:
    address = HubAddress("owner/name")
    with pytest.raises(UnreachableError) as caught, hub_errors(address):
        raise ConnectionError(
            "no answer from https://cdn.example/walk.onnx?X-Amz-Signature=secret&Expires=1 within 10 s"
        )
    assert "no answer from https://cdn.example/walk.onnx within 10 s" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://owner/name", "owner/name", None),
        ("hf://owner/name@v1.0", "owner/name", "v1.0"),
        ("hf://owner/name@refs/pr/3", "owner/name", "refs/pr/3"),
        (str(Path("hf://owner/name@main")), "owner/name", "main"),
    ],
)
def test_an_address_is_read(text: str, repository: str, revision: str | None) -> None:
    assert HubAddress.parse(text) == HubAddress(repository, revision)


@pytest.mark.parametrize(
    "text", ["hf://name", "hf://owner/name@", "hf://a/b/c", "hf://user:secret@owner/name", "hf://owner/näme"]
)
def test_another_address_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError, match="is not hf://owner/name or hf://owner/name@revision; write it so") as raised:
        HubAddress.parse(text)
    assert "secret" not in str(raised.value)


def test_huggingface_hub_is_imported_for_addresses_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = make_fake_bundle(tmp_path / "bundle")
    Segmenter.open(folder, ["grass", "road"], backend="fake", cache_dir=None).close()
    with pytest.raises(CompatibilityError, match=r"needs huggingface_hub \(not installed\); run: pip install"):
        bundle_folder("hf://owner/whole@main")


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nerve_runtime")
