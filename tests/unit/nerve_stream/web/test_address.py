"""Where the page listens, as somebody types it."""

import socket

import pytest

from nerve_runtime.errors import ResourceError, UsageError
from nerve_stream.web.address import PageAddress, parse_page_address, with_page_address
from nerve_stream.web.server import listening


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", PageAddress("127.0.0.1", 8080, or_free=True)),
        (":0", PageAddress("127.0.0.1", 0, or_free=False)),
        ("0.0.0.0:80", PageAddress("0.0.0.0", 80, or_free=False)),
        ("[::1]:8080", PageAddress("::1", 8080, or_free=False)),
        ("door.local:9", PageAddress("door.local", 9, or_free=False)),
    ],
)
def test_an_address_is_read(text: str, expected: PageAddress) -> None:
    assert parse_page_address(text) == expected


@pytest.mark.parametrize("text", ["8080", "here", "127.0.0.1:99999", "127.0.0.1:", "http://127.0.0.1:80", "a/b:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--web is .*, expected HOST:PORT, such as 127\.0\.0\.1:8080"):
        parse_page_address(text)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("192.168.0.2", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_only_this_machines_own_addresses_are_local(host: str, is_local: bool) -> None:
    assert PageAddress(host).is_local == is_local


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--web"], ["--web="]),
        (["--web", "clip.mp4"], ["--web=", "clip.mp4"]),
        (["a.mp4", "--web", "--force"], ["a.mp4", "--web=", "--force"]),
        (["--web", "0.0.0.0:80", "a.mp4"], ["--web=0.0.0.0:80", "a.mp4"]),
        (["--web=here", "a"], ["--web=here", "a"]),
        (["--web", "0"], ["--web=", "0"]),
        (["--web", "255"], ["--web=", "255"]),
        (["--web", "8080", "a.mp4"], ["--web=8080", "a.mp4"]),
        (["--web", "rtsp://door:554/live"], ["--web=", "rtsp://door:554/live"]),
    ],
)
def test_an_address_behind_web_may_be_left_out(words: list[str], expected: list[str]) -> None:
    assert with_page_address(words) == expected


def test_the_usual_port_gives_way_to_a_free_one_and_a_named_one_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listening(PageAddress(port=port)) as other:
            assert other.getsockname()[1] not in (port, 0)
        with pytest.raises(ResourceError, match=rf"cannot listen on 127\.0\.0\.1:{port}: it is in use; choose another"):
            listening(PageAddress(port=port, or_free=False))


@pytest.mark.parametrize("host", ["a..b", f"{'x' * 64}.de"])
def test_what_can_be_no_name_is_refused(host: str) -> None:
    with pytest.raises(ResourceError, match=rf"cannot listen on {host}:0: .*choose another with --web HOST:PORT"):
        listening(PageAddress(host, 0, or_free=False))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"cannot listen on 192\.0\.2\.1:0"):
        listening(PageAddress("192.0.2.1", 0, or_free=False))
