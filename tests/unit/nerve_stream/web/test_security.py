"""Who may ask the page for what: one test for each line of the list in docs/web.md."""

import re
import resource
import socket
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from nerve_stream.web import app, security, server
from nerve_stream.web.address import PageAddress
from nerve_stream.web.security import POLICY, Access, RateLimit
from nerve_stream.web.uploads import UPLOAD_LIMIT_BYTES
from tests.contracts.checkout import ROOT
from tests.data.served_page import ServedPage, open_to_all, png_of
from tests.data.waiting import wait_for

CHANGES = {"/words": {"words": "c; d"}, "/view": {"heat": True}, "/run": {"do": "pause"}, "/pictures": {}}


@pytest.fixture
def page() -> Iterator[ServedPage]:
    with ServedPage() as served:
        yield served


@pytest.fixture
def open_page() -> Iterator[ServedPage]:
    with ServedPage(open_to_all()) as served:
        yield served


def nothing_changed(page: ServedPage) -> bool:
    return page.segmenter.class_names == ("a", "b") and not page.hub.view.heat and not page.control.paused


# ---- Host and Origin


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "192.168.0.7:{port}", "", "[::1", "127.0.0.1.evil"]
)
def test_a_foreign_host_gets_nothing_as_after_dns_rebinding(page: ServedPage, host: str) -> None:
    foreign = host.format(port=page.port)
    for path in ("/", "/page.js", "/stream.mjpg", "/snapshot.png"):
        assert page.ask(path, host=foreign).status == 421
    assert page.post("/run", {"do": "pause"}, host=foreign, origin=f"http://{foreign}").status == 421
    assert nothing_changed(page)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "127.0.0.1", "LOCALHOST"])
def test_the_names_of_this_machine_are_known(page: ServedPage, host: str) -> None:
    assert page.ask("/", host=host.format(port=page.port)).status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:1", "null", "", "https://127.0.0.1", "http://{host}.evil.example"],
)
@pytest.mark.parametrize("path", CHANGES)
def test_a_foreign_page_changes_nothing(page: ServedPage, path: str, origin: str) -> None:
    answer = page.post(path, CHANGES[path], origin=origin.format(host=page.host))
    assert (answer.status, answer.body) == (403, b"only the page itself may ask this\n")
    assert nothing_changed(page)


@pytest.mark.parametrize("path", CHANGES)
def test_a_request_without_an_origin_changes_nothing(page: ServedPage, path: str) -> None:
    assert page.ask(path, method="POST", body=b"{}", own=False, content_type="application/json").status == 403


@pytest.mark.parametrize("path", CHANGES)
def test_looking_at_an_address_changes_nothing(page: ServedPage, path: str) -> None:
    assert page.ask(path).status == 405
    assert nothing_changed(page)


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {"origin": ""}]
)
def test_a_foreign_page_sees_no_frames(page: ServedPage, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        page.viewer(**headers)
    assert page.hub.viewers == 0


def test_a_form_of_a_foreign_page_has_the_wrong_type(page: ServedPage) -> None:
    assert page.post("/run", {"do": "pause"}, content_type="text/plain").status == 415
    assert nothing_changed(page)


# ---- token


def test_only_other_addresses_ask_for_a_token() -> None:
    assert Access.of(PageAddress("127.0.0.1"), 80).token is None
    tokens = {Access.of(PageAddress("0.0.0.0"), 80).token for _ in range(5)}
    assert len(tokens) == 5
    assert min(len(token or "") for token in tokens) >= 32


def test_without_the_token_nothing_is_shown_or_changed(open_page: ServedPage) -> None:
    for path in ("/", "/page.css", "/stream.mjpg", "/snapshot.png", "/?token=", "/?token=wrong", "/?token=%ff"):
        answer = open_page.ask(path)
        assert (answer.status, b"token" in answer.body, b"<" in answer.body) == (401, True, False)
    assert open_page.post("/run", {"do": "pause"}).status == 401
    for cookie in (f"nerve_{open_page.port}=wrong", f"nerve_{open_page.port}=", "a[]=1;;=", "\xff=\xff"):
        assert open_page.post("/run", {"do": "pause"}, cookie=cookie).status == 401
    with pytest.raises(InvalidStatus, match="403"):
        open_page.viewer()
    assert nothing_changed(open_page)


def test_the_token_is_asked_once_and_then_a_cookie_holds_it(open_page: ServedPage) -> None:
    first = open_page.ask("/" + open_page.page.url.rpartition("/")[2])
    assert (first.status, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split(r"; ", cookie))
    known = cookie.partition(";")[0]
    assert open_page.ask("/", cookie=known).status == 200
    assert open_page.post("/run", {"do": "pause"}, cookie=known).status == 200
    with open_page.viewer(cookie=known) as viewer:
        assert viewer.next()[0]["paused"]


def test_a_player_without_cookies_gives_the_token_in_the_address(open_page: ServedPage) -> None:
    open_page.show()
    token = open_page.page.url.partition("?")[2]
    assert open_page.ask(f"/snapshot.png?{token}").status == 200


def test_a_token_in_the_address_of_a_change_is_not_taken(open_page: ServedPage) -> None:
    token = open_page.page.url.partition("?")[2]
    assert open_page.post(f"/run?{token}", {"do": "pause"}).status == 401


def test_behind_a_token_hosts_are_addresses_and_own_names_only(open_page: ServedPage) -> None:
    known = f"nerve_{open_page.port}={open_page.page.url.partition('=')[2]}"
    for host, status in ((socket.gethostname(), 200), ("192.168.0.7", 200), ("evil.example", 421)):
        assert open_page.ask("/", host=host, cookie=known).status == status


# ---- paths and headers


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/page/../server.py", "/%2e%2e/server.py", "//etc/passwd",
        "/page.js/../../security.py", "/page/page.js", "/static/../app.py", "/etc/passwd", "/page.js%00.png", "/.", "/..",
        "/index.html", "/%5c..%5c..%5cserver.py",
    ],
)  # fmt: skip
def test_no_path_of_the_disk_can_be_read(page: ServedPage, path: str) -> None:
    answer = page.ask(path)
    assert (answer.status, answer.body) == (404, b"Not Found")


def test_every_answer_carries_the_headers(page: ServedPage) -> None:
    page.show()
    answers = [page.ask(path) for path in ("/", "/page.js", "/page.css", "/icon.svg", "/nowhere", "/snapshot.png")]
    answers += [page.ask("/", host="evil.example"), page.post("/run", {}), page.post("/run", {}, origin="null")]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers


def test_the_page_has_no_inline_script_and_fetches_nothing_from_elsewhere() -> None:
    folder = ROOT / "runtime" / "nerve_stream" / "web" / "page"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(texts) == {"index.html", "page.css", "page.js", "icon.svg"}
    assert re.findall(r"<script[^>]*>", texts["index.html"]) == ['<script src="page.js" defer>']
    assert not re.search(r"\son\w+=|style=|javascript:", texts["index.html"])
    assert not re.search(r"innerHTML|eval\(|insertAdjacentHTML|document\.write", texts["page.js"])
    for name, text in texts.items():
        assert not re.search(r"https?://|@import|url\(", text.replace("http://www.w3.org/2000/svg", "")), name


# ---- sizes


def test_a_large_upload_is_refused_before_it_is_read(page: ServedPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
        head = f"POST /pictures HTTP/1.1\r\nhost: {page.host}\r\norigin: http://{page.host}\r\n"
        client.sendall(f"{head}content-length: {UPLOAD_LIMIT_BYTES + 1}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_large_upload_without_a_length_is_refused_at_the_limit(
    page: ServedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "UPLOAD_LIMIT_BYTES", 1000)
    answer = page.ask("/pictures", method="POST", body=b"x" * 2000, transfer_encoding="chunked")
    assert (answer.status, answer.error) == (413, "the body is larger than 1000 bytes")


def test_a_large_question_is_refused(page: ServedPage) -> None:
    assert page.post("/words", {"words": "a" * app.JSON_LIMIT_BYTES}).status == 413


def test_headers_without_end_are_refused(page: ServedPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 2 * server.HEADERS_LIMIT_BYTES)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_picture_that_unpacks_to_gigabytes_is_refused_before_it_is_decoded(page: ServedPage) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        + chunk(b"IEND", b"")
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = page.ask("/pictures", method="POST", body=bomb)
    assert (answer.status, "40000 x 40000 pixels, expected at most" in answer.error) == (422, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 20, b"\0" * 99],
)
def test_what_is_no_picture_is_refused(page: ServedPage, content: bytes) -> None:
    answer = page.ask("/pictures", method="POST", body=content)
    assert answer.status == 422
    assert not page.uploads.frames.holds_picture  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"a"', b"[" * 50_000, b"\xff", b'{"words": 3}'])
def test_what_is_no_question_is_refused(page: ServedPage, body: bytes) -> None:
    assert page.ask("/words", method="POST", body=body, content_type="application/json").status == 400


# ---- rates and numbers


def test_questions_are_limited_in_number(page: ServedPage) -> None:
    answers = [page.post("/view", {"heat": True}).status for _ in range(3 * app.ASKED_AT_ONCE)]
    assert answers[: app.ASKED_AT_ONCE] == [200] * app.ASKED_AT_ONCE
    assert 429 in answers


def test_uploads_are_limited_in_number(page: ServedPage, tmp_path: Path) -> None:
    picture = png_of((8, 8), tmp_path / "a.png")
    answers = [page.ask("/pictures", method="POST", body=picture).status for _ in range(3 * app.UPLOADS_AT_ONCE)]
    assert (answers[0], answers[-1]) == (200, 429)


def test_a_rate_is_granted_again_with_time() -> None:
    now_s = [0.0]
    limit = RateLimit(2.0, 3, clock=lambda: now_s[0])
    assert [limit.grant() for _ in range(4)] == [True, True, True, False]
    now_s[0] = 0.5
    assert [limit.grant() for _ in range(2)] == [True, False]
    now_s[0] = 100.0
    assert [limit.grant() for _ in range(4)] == [True, True, True, False]


def test_a_thousand_connections_at_once_cost_64_descriptors_and_the_page_answers_afterwards(page: ServedPage) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else min(hard, 4096), hard))
    connections = page.page._server._server.server_state.connections
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        clients = [
            held.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=10)) for _ in range(1000)
        ]
        assert wait_for(lambda: len(connections) == server.CONNECTIONS_LIMIT)
        assert is_closed(clients[-1])
    assert wait_for(lambda: not connections)
    assert page.ask("/").status == 200


def is_closed(client: socket.socket) -> bool:
    """Whether the connection ends, after what is left of an answer."""
    try:
        while client.recv(1000):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 0.2)
    with ServedPage() as page:
        for words in (b"", b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n"):
            with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
                client.sendall(words)
                assert is_closed(client)


@pytest.mark.parametrize(
    "answered",
    [b"GET / HTTP/1.1\r\nhost: evil\r\n\r\n", b"POST / HTTP/1.1\r\nhost: evil\r\ncontent-length: 99\r\n\r\n"],
)
def test_a_connection_whose_next_request_never_ends_is_closed(answered: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 0.5)
    with ServedPage() as page, socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
        client.sendall(answered)
        assert client.recv(4000).startswith(b"HTTP/1.1 421 ")
        client.sendall(b"G")
        assert is_closed(client)


def test_a_connection_that_asks_again_in_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 0.5)
    with ServedPage() as page, closing(HTTPConnection("127.0.0.1", page.port, timeout=10)) as client:
        client.connect()
        kept = client.sock
        for _ in range(5):
            client.request("GET", "/icon.svg")
            assert client.getresponse().read().startswith(b"<svg")
            time.sleep(0.25)
        assert client.sock is kept


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READING_TIMEOUT_S", 0.3)
    with ServedPage() as page, socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
        connections = page.page._server._server.server_state.connections
        client.sendall(f"GET /page.js HTTP/1.1\r\nhost: {page.host}\r\n\r\n".encode() * 800)
        assert wait_for(lambda: len(connections) == 1)
        assert wait_for(lambda: not connections)


def test_viewers_are_limited_in_number(page: ServedPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "VIEWERS_LIMIT", 2)
    with page.viewer() as first, page.viewer() as second:
        first.next(), second.next()
        with page.viewer() as third, pytest.raises(ConnectionClosed, match="1013"):
            third.next()
        assert page.ask("/stream.mjpg").status == 503
    assert wait_for(lambda: page.hub.viewers == 0)


def test_a_flood_of_messages_ends_the_connection_that_sends_them(page: ServedPage) -> None:
    with page.viewer() as flooder, page.viewer() as other:
        other.next()
        sending = iter(lambda: flooder.socket.send("next"), "never")
        with pytest.raises(ConnectionClosed, match="1008"):
            deque(sending, maxlen=0)
        page.show()
        assert other.next_where(lambda text: text.get("classes"))


@pytest.mark.parametrize("message", ["", "NEXT", b"next", "next" * 10])
def test_any_other_message_ends_the_connection(page: ServedPage, message: str | bytes) -> None:
    with page.viewer() as viewer:
        viewer.socket.recv(10)
        viewer.socket.send(message)
        with pytest.raises(ConnectionClosed, match="1008"):
            viewer.socket.recv(10)


def test_a_large_message_ends_the_connection(page: ServedPage) -> None:
    with page.viewer() as viewer:
        viewer.socket.recv(10)
        viewer.socket.send("n" * 10_000)
        with pytest.raises(ConnectionClosed, match="1009"):
            viewer.socket.recv(10)


def test_a_body_that_never_comes_is_given_up(page: ServedPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security.read_body, "__defaults__", (0.2,))
    started_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
        head = f"POST /pictures HTTP/1.1\r\nhost: {page.host}\r\norigin: http://{page.host}\r\n"
        client.sendall(f"{head}content-length: 100\r\n\r\nabc".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started_s < 8
