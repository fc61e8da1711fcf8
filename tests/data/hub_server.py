"""A stand-in of the Hugging Face hub on the loopback, which the real huggingface_hub talks to; it has no Xet.

It can refuse repositories, cut connections, be busy, send wrong bytes and swap files; see `HubServer`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

import pytest

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
REFUSALS = {
    "gone": (404, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "moved": (404, "RevisionNotFound"),
    "ill": (400, ""),
    "closed": (403, ""),
}
"""Repositories of these names are refused, with this code and this error."""
LARGE = (".onnx", ".data", ".safetensors", ".bin")
TOKEN = "hf_of_the_tests"


class Served(Protocol):
    """A file that nobody holds in memory."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        ...

    def blocks(self, first: int) -> Iterator[bytes]:
        """Its bytes from the one with this number on."""
        ...


@dataclass(frozen=True)
class _Bytes:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def blocks(self, first: int) -> Iterator[bytes]:
        yield self.content[first:]


def _served(content: "bytes | Served") -> Served:
    return _Bytes(content) if isinstance(content, bytes) else content


@dataclass
class Repository:
    """The files of each commit, the commit of each branch."""

    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False


class HubServer:
    """What the hub holds, and the faults that are asked for.

    Attributes:
        repositories: by owner/name.
        cuts: for each path how many bytes of an answer are sent before the connection is cut, one entry an answer.
        stalls: for each path how many bytes are sent before nothing more comes.
        stalled: set once that happened.
        swapped: for each path what is served in its place.
        busy: for each path the answers before the first whole one: status and Retry-After.
        flipped: for each path the numbers of bytes that are sent wrong, one entry an answer.
        asked: method, path and range of every request.
        address: of the server, for HF_ENDPOINT.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.stalls: dict[str, int] = {}
        self.stalled = Event()
        self.resumed = Event()
        self.swapped: dict[str, bytes] = {}
        self.busy: dict[str, list[tuple[int, str]]] = {}
        self.flipped: dict[str, list[int]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.address = ""

    def add(
        self, name: str, files: Mapping[str, bytes | Served], branch: str = "main", commit: str | None = None
    ) -> str:
        """Let a branch be a new commit with these files; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        named = json.dumps([len(repository.commits), sorted(files)])
        commit = commit or hashlib.sha1(named.encode(), usedforsecurity=False).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """The paths of files whose content was asked for, in order."""
        return [path.split("/", 5)[5] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]


@contextmanager
def serving() -> Iterator[HubServer]:
    """A hub that answers at its address during the block; proxies are left out."""
    hub = HubServer()
    with pytest.MonkeyPatch.context() as patch:
        for name in PROXIES:
            patch.delenv(name, raising=False)
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield hub
        hub.resumed.set()
        server.shutdown()
        server.server_close()


@contextmanager
def in_use(hub: HubServer, cache: Path) -> Iterator[None]:
    """Let huggingface_hub of this process talk to it, without Xet, and our cache be a folder; nothing is remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        address = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Answers(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing on stderr."""

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for name, (code, error) in REFUSALS.items():
            if f"owner/{name}/" in path + "/":
                self._send(code, b"{}", {"X-Error-Code": error, "X-Error-Message": error})
                return
        for pattern, method in _ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                getattr(self, method)(*match.groups())
                return
        self._error(404, "EntryNotFound")

    def _info(self, name: str, revision: str | None = None) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._error(404, "RepoNotFound")
            return
        commit = repository.branches.get(revision or "main", revision)
        files = repository.commits.get(str(commit))
        if files is None and repository.commits:
            self._error(404, "RevisionNotFound")
            return
        siblings = [_sibling(path, content) for path, content in (files or {}).items()]
        self._json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get(name, Repository())
        files = repository.commits.get(repository.branches.get(revision, revision), {})
        if path not in files:
            self._error(404, "EntryNotFound" if repository.commits else "RepoNotFound")
            return
        if busy := self.hub.busy.get(path):
            status, retry_after = busy.pop(0)
            self._send(status, b"", {"Retry-After": retry_after})
            return
        content = _served(self.hub.swapped.get(path, files[path]))
        headers = {"ETag": f'"{content.sha256}"', "X-Repo-Commit": revision}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            self._send(200, content, headers, path)
            return
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{content.size - 1}/{content.size}"
        self._send(206, content, headers, path, first)

    def _create(self) -> None:
        asked = json.loads(self.content)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may_write():
            return
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            self._json(url, 409)
            return
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        self._json(url)

    def _branch(self, name: str, branch: str) -> None:
        repository = self.hub.repositories[name]
        if branch in repository.branches:
            self._json({}, 409)
            return
        if "main" in repository.branches:
            repository.branches[branch] = repository.branches["main"]
        self._json({}, 201)

    def _upload_modes(self, _name: str, _revision: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.content)["files"]
        ]
        if self._may_write():
            self._json({"files": files})

    def _batch(self, _name: str) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.address}/objects/{item['oid']}"}}}
            for item in json.loads(self.content)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if hashlib.sha256(self.content).hexdigest() == oid:
            self.hub.objects[oid] = self.content
        self._send(200 if oid in self.hub.objects else 400, b"", {})

    def _commit(self, name: str, branch: str) -> None:
        if not self._may_write():
            return
        repository = self.hub.repositories[name]
        files = dict(repository.commits.get(repository.branches.get(branch, ""), {}))
        for line in self.content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                repository.messages.append(value["summary"])
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self.hub.add(name, files, branch)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{name}/commit/{commit}"})

    def _card(self) -> None:
        is_card = json.loads(self.content)["content"].startswith("---\nlicense: ")
        self._json({"errors": [] if is_card else [{"message": "no licence"}], "warnings": []}, 200 if is_card else 400)

    def _may_write(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not allowed:
            self._json({"error": "no rights"}, 403)
        return allowed

    def _json(self, answer: Any, code: int = 200) -> None:
        self._send(code, json.dumps(answer).encode(), {})

    def _error(self, code: int, error: str) -> None:
        self._send(code, b"", {"X-Error-Code": error, "X-Error-Message": error})

    def _send(
        self, code: int, body: bytes | Served, headers: Mapping[str, str], path: str = "", first: int = 0
    ) -> None:
        content = _served(body)
        self.send_response(code)
        length = {"Content-Length": str(content.size - first), "Content-Type": "application/json"}
        for name, value in {**headers, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts, flips = self.hub.cuts.get(path), self.hub.flipped.get(path)
        limit = self.hub.stalls.get(path, cuts.pop(0) if cuts else content.size)
        wrong = flips.pop(0) if flips else None
        sent = 0
        for block in content.blocks(first):
            if wrong is not None and first + sent <= wrong < first + sent + len(block):
                at = wrong - first - sent
                block = block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
            self.wfile.write(block[: limit - sent])
            sent += len(block)
            if sent >= limit:
                break
        if self.hub.stalls.pop(path, None) is not None:
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.resumed.wait()


_ROUTES = {
    r"GET /api/models/([^/]+/[^/]+)": "_info",
    r"GET /api/models/([^/]+/[^/]+)/revision/([^/]+)": "_info",
    r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)": "_file",
    r"POST /api/repos/create": "_create",
    r"POST /api/models/([^/]+/[^/]+)/branch/([^/]+)": "_branch",
    r"POST /api/models/([^/]+/[^/]+)/preupload/([^/]+)": "_upload_modes",
    r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": "_batch",
    r"PUT /objects/(\w+)": "_store",
    r"POST /api/models/([^/]+/[^/]+)/commit/([^/]+)": "_commit",
    r"POST /api/validate-yaml": "_card",
}


def _sibling(path: str, content: bytes | Served) -> dict[str, Any]:
    served = _served(content)
    large = {"lfs": {"sha256": served.sha256, "size": served.size, "pointerSize": 134}} if path.endswith(LARGE) else {}
    return {"rfilename": path, "size": served.size, "blobId": "0" * 40, **large}
