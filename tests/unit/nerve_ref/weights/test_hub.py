"""The real huggingface_hub against a server of our own on the loopback that answers as the hub does."""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from nerve_ref.weights.download import WeightStore, fetch
from nerve_ref.weights.errors import MirrorError
from nerve_ref.weights.hub import HuggingFaceHub
from tests.unit.nerve_ref.fake_hub import COMMIT, folders_in, write_lock_json

pytest.importorskip("huggingface_hub")

WEIGHTS = b"w" * 1000
CONFIG = b'{"model_type": "clip"}'
FILES = {"config.json": CONFIG, "unet/model.safetensors": WEIGHTS}
SIBLINGS = [
    {"rfilename": "config.json", "size": len(CONFIG), "blobId": "0" * 40},
    {
        "rfilename": "unet/model.safetensors",
        "size": len(WEIGHTS),
        "blobId": "2" * 40,
        "lfs": {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS), "pointerSize": 134},
    },
]
REFUSALS = {
    "gone": (404, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "moved": (404, "RevisionNotFound"),
    "ill": (400, ""),
}


class Answers(BaseHTTPRequestHandler):
    """Serves owner/whole; refuses owner/<one of REFUSALS>."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        for name, (code, error) in REFUSALS.items():
            if f"owner/{name}/" in path + "/":
                self._send(code, b"{}", {"X-Error-Code": error, "X-Error-Message": error}, with_body=with_body)
                return
        if path == "/api/models/owner/whole/revision/main":
            body = json.dumps({"id": "owner/whole", "sha": COMMIT, "siblings": SIBLINGS}).encode()
        elif path.removeprefix(f"/owner/whole/resolve/{COMMIT}/") in FILES:
            body = FILES[path.removeprefix(f"/owner/whole/resolve/{COMMIT}/")]
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
            return
        etag = hashlib.sha256(body).hexdigest()
        self._send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, with_body=with_body)

    def _send(self, code: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing on stderr."""


@pytest.fixture(scope="module")
def hub() -> Iterator[HuggingFaceHub]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        Thread(target=server.serve_forever, daemon=True).start()
        yield HuggingFaceHub(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        server.server_close()


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
