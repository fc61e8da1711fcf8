"""`nerve-segment --web` as its user runs it: it says where the page is, plays it for ever, and ends when it is told to."""

import json
import re
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from nerve_stream.web import opening
from tests.data.media import make_video
from tests.data.running_command import RunningCommand, error_of, json_lines, segment, words_of
from tests.data.served_page import Viewer, grey
from tests.unit.nerve_stream.sources.test_frames import write_image

END_S = 5.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", rate=25, seconds=0.48)


def address_of(command: RunningCommand) -> str:
    """Where the page of a command is, once it says so."""
    command.wait_for("it says where the page is", lambda: "page: " in command.stderr())
    found = re.search(r"^page: (http://\S+)$", command.stderr(), re.MULTILINE)
    assert found is not None, command.stderr()
    return found[1]


def viewer_of(address: str) -> Viewer:
    host = address.split("/")[2]
    return Viewer(connect(f"ws://{host}/live", additional_headers={"origin": f"http://{host}"}, max_size=None))


def post(address: str, path: str, wanted: object) -> dict[str, object]:
    headers = {"origin": address.rstrip("/"), "content-type": "application/json"}
    request = urllib.request.Request(address + path, json.dumps(wanted).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@pytest.mark.parametrize("isolate", ["--no-isolate", pytest.param("--isolate", marks=pytest.mark.slow)])
def test_a_file_plays_again_and_again_takes_words_and_ends_on_a_signal(
    bundle: Path, clip: Path, tmp_path: Path, isolate: str
) -> None:
    with RunningCommand(tmp_path, words_of(bundle, clip, isolate, "--web", "127.0.0.1:0")) as command:
        address = address_of(command)
        assert urllib.request.urlopen(address, timeout=10).read().startswith(b"<!doctype html>")
        with viewer_of(address) as viewer:
            viewer.next_where(lambda text: text.get("frame", 0) > 30)  # of 12
            assert post(address, "words", {"words": "grass; sky"}) == {"classes": ["grass", "sky"]}
            text, _ = viewer.next_where(lambda text: [one["name"] for one in text["classes"]] == ["grass", "sky"])
            assert text["words"] == "grass; sky"
            asked_s = time.monotonic()
            command.process.send_signal(signal.SIGTERM)
            assert command.end() == 143
        assert time.monotonic() - asked_s < END_S
        assert not command.left_over()


@pytest.mark.slow
def test_a_picture_is_segmented_again_when_the_words_change(bundle: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", grey())
    words = words_of(bundle, tmp_path / "photo.png", "--web", "127.0.0.1:0")
    with RunningCommand(tmp_path / "run", words) as command:
        address = address_of(command)
        with viewer_of(address) as viewer:
            assert viewer.next_where(lambda text: "frame" in text)[0]["frame"] == 0
            post(address, "words", {"words": "sky; red"})
            text, _ = viewer.next_where(lambda text: text.get("frame", 0) > 0)
            assert (text["frame"], len(text["classes"])) == (1, 2)
            command.process.send_signal(signal.SIGINT)
            assert command.end() == 130


def test_beside_other_outputs_the_page_ends_with_the_run_and_the_files_are_whole(
    bundle: Path, clip: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.jsonl"
    ended = segment(bundle, clip, "--web", "127.0.0.1:0", "--jsonl", lines)
    assert ended.exit_code == 0, ended.stderr
    assert len(json_lines(lines)) == 12
    address = re.search(r"^page: http://127\.0\.0\.1:(\d+)/$", ended.stderr, re.MULTILINE)
    assert address is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address[1])), timeout=2)


@pytest.mark.slow
def test_the_last_frame_of_several_sources_can_be_chosen(bundle: Path, clip: Path, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", rate=25, seconds=0.48)
    with RunningCommand(tmp_path / "run", words_of(bundle, clip, other, "--web", "127.0.0.1:0")) as command:
        address = address_of(command)
        with viewer_of(address) as viewer:
            text, _ = viewer.next_where(lambda text: "frame" in text)
            assert (text["source"], text["sources"]) == ("clip", ["clip", "other"])
            post(address, "view", {"source": "other"})
            viewer.next_where(lambda text: text["source"] == "other" and "frame" in text)


@pytest.mark.slow
def test_any_other_address_prints_a_token(bundle: Path, clip: Path, tmp_path: Path) -> None:
    with RunningCommand(tmp_path, words_of(bundle, clip, "--web", "0.0.0.0:0")) as command:
        address = address_of(command)
        assert re.search(r"/\?token=[\w-]{32}$", address)


def test_a_loop_is_refused_where_its_files_would_never_be_complete(bundle: Path, clip: Path, tmp_path: Path) -> None:
    ended = segment(bundle, clip, "--loop", "--jsonl", tmp_path / "l.jsonl")
    assert ended.exit_code == 2
    assert "--loop never ends" in error_of(ended)


@pytest.mark.parametrize(
    ("address", "says"), [("--web=here", "expected HOST:PORT"), ("--web=192.0.2.1:0", "cannot listen")]
)
def test_an_address_of_no_use_is_told(bundle: Path, clip: Path, address: str, says: str) -> None:
    ended = segment(bundle, clip, address)
    assert ended.exit_code in (2, 6)
    assert says in error_of(ended)


def test_without_its_packages_the_page_says_what_to_install(
    bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == "uvicorn" else sys)
    ended = segment(bundle, clip, "--web")
    assert ended.exit_code == 4
    assert error_of(ended) == 'error: --web needs uvicorn (not installed); run: pip install "nerve-deploy[web]"'


@pytest.mark.slow
def test_words_stay_where_masks_are_written(bundle: Path, tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.mp4", seconds=20)
    words = words_of(
        bundle, clip, "--web", "127.0.0.1:0", "--masks", tmp_path / "masks", "--realtime", "--hang-timeout", "9"
    )
    with RunningCommand(tmp_path / "run", words) as command:
        address = address_of(command)
        with viewer_of(address) as viewer:
            assert (
                "--masks, --export and --resume are of one list"
                in viewer.next_where(lambda text: text["names"])[0]["words_fixed"]
            )


def test_a_page_in_use_is_said_to_be(bundle: Path, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = segment(bundle, clip, "--web", f"127.0.0.1:{taken.getsockname()[1]}")
    assert ended.exit_code == 6
    assert "it is in use; choose another with --web HOST:PORT" in error_of(ended)


@pytest.mark.slow
def test_it_waits_for_somebody_to_look(bundle: Path, clip: Path, tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    words = words_of(bundle, clip, "--web", "127.0.0.1:0", "--status-json", status)
    with RunningCommand(tmp_path / "run", words) as command:
        address = address_of(command)

        def came() -> int:
            sources = json.loads(status.read_text())["sources"] if status.exists() else []
            return int(sources[0]["counts"]["frames_in"]) if sources else 0

        command.wait_for("the clip has played once", lambda: came() >= 12)
        assert came() == 12
        with viewer_of(address) as viewer:
            viewer.next_where(lambda text: came() > 12)
