"""A stand-in of the Hugging Face hub on the loopback, which the real huggingface_hub talks to; it has no Xet.

It can refuse repositories, cut connections and swap files; see `HubServer`.
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
from typing import Any

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
LARGE = (".onnx", ".data", ".safetensors")
TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """The files of each commit, the commit of each branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
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
        self.asked: list[tuple[str, str, str]] = []
        self.address = ""

    def add(self, name: str, files: Mapping[str, bytes], branch: str = "main", commit: str | None = None) -> str:
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
        content = self.hub.swapped.get(path, files[path])
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": revision}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            self._send(200, content, headers, path)
            return
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._send(206, content[first:], headers, path)

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

    def _send(self, code: int, body: bytes, headers: Mapping[str, str], path: str = "") -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.hub.stalls:
            self.wfile.write(body[: self.hub.stalls.pop(path)])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.resumed.wait()
            return
        cuts = self.hub.cuts.get(path)
        self.wfile.write(body[: cuts.pop(0)] if cuts else body)


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


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return {
        "rfilename": path,
        "size": len(content),
        "blobId": "0" * 40,
        **({"lfs": large} if path.endswith(LARGE) else {}),
    }
