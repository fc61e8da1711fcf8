"""Frames to viewers: drawn and encoded once, newest wins, nobody waits for anybody; and what viewers do to the run."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import FrameResult, label_dtype
from nerve_stream.web import server
from nerve_stream.web.uploads import UploadedPictures
from tests.data.served_page import ServedPage, Viewer, decoded, grey, half_and_half, png_of
from tests.data.waiting import wait_for

FRAMES = 30


@pytest.fixture
def page() -> Iterator[ServedPage]:
    with ServedPage() as served:
        yield served


def numbered(index: int) -> FrameResult:
    return replace(half_and_half(), index=index)


def shows(index: int) -> Callable[[dict[str, Any]], bool]:
    return lambda text: text.get("frame") == index


def test_a_viewer_sees_the_frame_and_reads_what_is_in_it(page: ServedPage) -> None:
    page.show()
    with page.viewer() as viewer:
        text, jpeg = viewer.next_where(lambda text: text.get("classes"))
    assert [(one["name"], one["share"]) for one in text["classes"]] == [("a", 0.5), ("b", 0.5)]
    assert (text["source"], text["sources"], text["words"], text["paused"]) == (
        "first",
        ["first", "second"],
        "a; b",
        False,
    )
    assert (text["width"], text["height"], text["confidence"], text["timings_ms"]) == (64, 48, 0.5, {"total": 1.0})
    picture = decoded(jpeg)
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture[24, 10].astype(int) - picture[24, 50]).max() > 30


@pytest.mark.parametrize(("count", "listed"), [(256, 256), (257, 4)])
def test_of_a_very_long_list_the_page_names_what_is_seen_or_hidden(page: ServedPage, count: int, listed: int) -> None:
    names = ("background", *(f"class {number}" for number in range(1, count)))
    labels = np.full((48, 64), 7, dtype=label_dtype(count))
    labels[:, 32:] = 9
    result = replace(half_and_half(), labels=labels, class_names=names)
    with page.viewer() as viewer:
        page.post("/view", {"hidden": ["class 200", "no class"]})
        page.show(result=result)
        text, _ = viewer.next_where(lambda text: text.get("classes") and text["hidden"])
    found = [one["name"] for one in text["classes"]]
    assert len(found) == listed
    assert {"class 7", "class 9", "class 200"} < set(found)
    assert found[0] == "background"


def test_eight_viewers_share_one_encoding(page: ServedPage) -> None:
    def look(viewer: Viewer) -> list[bytes]:
        return [viewer.next_where(shows(index))[1] for index in range(FRAMES) if page_shows(index)]

    everybody = threading.Barrier(8)

    def page_shows(index: int) -> bool:
        if everybody.wait(20) == 0:
            page.show(result=numbered(index))
        return True

    viewers = [page.viewer() for _ in range(8)]
    try:
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(look, viewers))
    finally:
        for viewer in viewers:
            viewer.__exit__()
    assert all(len(one) == FRAMES for one in seen)
    assert all(one == seen[0] for one in seen)
    assert page.hub.encodings == FRAMES


def test_without_viewers_nothing_is_encoded_and_the_first_one_sees_the_newest_frame(page: ServedPage) -> None:
    for index in range(5):
        page.show(result=numbered(index))
    assert page.hub.encodings == 0
    with page.viewer() as viewer:
        viewer.next_where(shows(4))
    assert page.hub.encodings == 1


def test_a_viewer_that_never_reads_costs_nobody_a_frame(page: ServedPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as mute, page.viewer() as silent, page.viewer() as viewer:
        mute.sendall(f"GET /stream.mjpg HTTP/1.1\r\nhost: {page.host}\r\n\r\n".encode())
        assert wait_for(lambda: page.hub.viewers == 3)
        noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
        slowest_s = 0.0
        for index in range(FRAMES):
            started_s = time.monotonic()
            page.show(rgb=noise, result=replace(half_and_half((720, 1280)), index=index))
            slowest_s = max(slowest_s, time.monotonic() - started_s)
            viewer.next_where(shows(index))
        assert silent.socket.recv(5)  # one view, the first; no other is sent before it is answered
        with pytest.raises(TimeoutError):
            silent.socket.recv(0.2)
    # Handing over never waits for a viewer; what 30 pictures of noise take to encode would be seconds.
    assert slowest_s < 1.0


def test_a_slow_viewer_gets_the_newest_view(page: ServedPage) -> None:
    with page.viewer() as viewer:
        page.show(result=numbered(0))
        viewer.next_where(shows(0))
        assert wait_for(lambda: page.hub._encoded.number > 1)
        first = viewer.socket.recv(5)  # not answered for a while
        for index in range(1, 20):
            page.show(result=numbered(index))
            assert wait_for(lambda index=index: page.hub.encodings > index)  # type: ignore[misc]
        viewer.socket.send("next")
        assert first is not None
        assert viewer.next()[0]["frame"] == 19


def test_the_stream_is_one_that_any_player_reads(page: ServedPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client, page.viewer() as viewer:
        client.sendall(f"GET /stream.mjpg HTTP/1.1\r\nhost: {page.host}\r\n\r\n".encode())
        page.show()
        received = b""
        while received.count(b"--nerve-frame\r\n") < 2:
            received += client.recv(65536)
        page.post("/run", {"do": "pause"})  # the page says something else beside the same picture: no part is sent
        viewer.next_where(lambda text: text["paused"])
        page.show(result=numbered(1))
        while received.count(b"--nerve-frame\r\n") < 3:
            received += client.recv(65536)
    assert b"content-type: multipart/x-mixed-replace; boundary=nerve-frame\r\n" in received
    assert received.count(b"content-type: image/jpeg\r\n") == received.count(b"\xff\xd8\xff") == 2
    assert wait_for(lambda: page.hub.viewers == 0)


def test_words_are_set_and_a_word_that_is_refused_is_told_and_changes_nothing(page: ServedPage) -> None:
    assert page.post("/words", {"words": "zebra, horse; grass\n sky;\n\n"}).json() == {
        "classes": ["zebra, horse", "grass", "sky"]
    }
    refused = page.post("/words", {"words": "zebra; unknown"})
    assert (refused.status, refused.error) == (422, "the word 'unknown' is unknown; use another")
    assert page.segmenter.class_names == ("zebra, horse", "grass", "sky")
    with page.viewer() as viewer:
        assert viewer.next()[0]["words"] == "zebra, horse; grass; sky"


def test_words_of_a_run_that_writes_masks_stay() -> None:
    with ServedPage(fixed="they stay") as page:
        assert page.post("/words", {"words": "c; d"}).error == "they stay"
        with page.viewer() as viewer:
            assert viewer.next()[0]["words_fixed"] == "they stay"


def test_settings_hold_for_all_viewers(page: ServedPage) -> None:
    page.show()
    page.show("second", result=numbered(7))
    with page.viewer() as one, page.viewer() as other:
        before = one.next_where(shows(0))[1]
        assert page.post("/view", {"hidden": ["a"], "source": "second"}).status == 200
        for viewer in (one, other):
            text, jpeg = viewer.next_where(shows(7))
            assert text["hidden"] == ["a"]
            assert jpeg != before
    assert page.post("/view", {"source": "elsewhere"}).status == 422


def test_a_run_is_paused_stepped_and_goes_on(page: ServedPage) -> None:
    steps: list[int] = []
    end = page.control.listen(lambda paused: None, lambda: steps.append(1))
    assert page.post("/run", {"do": "pause"}).status == 200
    assert page.control.paused
    page.post("/run", {"do": "step"})
    page.post("/words", {"words": "c; d"})  # seen at once, also while the run stands still
    page.post("/run", {"do": "resume"})
    end()
    assert (page.control.paused, len(steps)) == (False, 2)
    refused = page.post("/run", {"do": "rm -rf"})
    assert (refused.status, refused.error) == (422, "the action is 'rm -rf', expected pause, resume, step")


def test_snapshots_are_the_picture_and_the_labels_in_the_size_of_the_frame(page: ServedPage) -> None:
    assert page.ask("/snapshot.png").status == 404
    large = half_and_half((1000, 1500))
    page.show(rgb=grey((1000, 1500)), result=large)
    page.post("/view", {"hidden": ["b"]})
    picture = decoded(page.ask("/snapshot.png").body)
    assert picture.shape == (1000, 1500, 3)
    assert (picture[:, 800:] == 128).all()
    answer = page.ask("/labels.png")
    labels = decoded(answer.body)
    assert (labels == large.labels).all()
    assert answer.headers["content-disposition"] == 'attachment; filename="labels.png"'


def test_an_uploaded_picture_becomes_a_frame_and_one_more_when_the_words_change(
    page: ServedPage, tmp_path: Path
) -> None:
    assert page.uploads.accompanies
    frames = iter(page.uploads.frames)
    answer = page.ask("/pictures", method="POST", body=png_of((20, 30), tmp_path / "a.png"))
    assert answer.json() == {"width": 30, "height": 20}
    assert next(frames).rgb.shape == (20, 30, 3)
    assert page.hub.view.source == page.uploads.name
    page.post("/words", {"words": "c; d"})
    again = next(frames)
    assert (again.rgb.shape, again.index) == ((20, 30, 3), 1)


def test_a_clip_begins_again_while_somebody_looks_and_a_picture_when_the_words_change(page: ServedPage) -> None:
    clip, still = page.page.wants_again(), page.page.wants_again()
    assert not clip(0.01, False)
    assert not still(0.01, True)
    page.post("/words", {"words": "c; d"})
    assert not clip(0.01, False)
    assert [still(0.01, True), still(0.01, True)] == [True, False]
    with page.viewer():
        assert clip(5, False)
        assert not still(0.01, True)


def test_sources_that_are_over_are_forgotten(page: ServedPage) -> None:
    page.show()
    page.show("second")
    page.page.jobs(["second", "third"])
    assert set(page.hub._frames) == {"second"}
    assert page.hub.view.source == "second"


def test_uploads_end_when_they_are_closed() -> None:
    uploads = UploadedPictures("a")
    reader = threading.Thread(target=lambda: list(uploads))
    reader.start()
    uploads.put(grey())
    uploads.close()
    reader.join(3)
    assert not reader.is_alive()


def test_before_the_graphs_are_open_words_are_not_taken() -> None:
    with ServedPage() as page:
        page.page._control._worker = None
        answer = page.post("/words", {"words": "c; d"})
        assert (answer.status, answer.error) == (503, "the graphs are being opened; try again in a moment")


def test_a_page_ends_at_once_with_viewers_that_never_read(page: ServedPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as mute, page.viewer() as silent:
        mute.sendall(f"GET /stream.mjpg HTTP/1.1\r\nhost: {page.host}\r\n\r\n".encode())
        page.show(rgb=grey((720, 1280)), result=half_and_half((720, 1280)))
        assert silent.socket.recv(5)
        started_s = time.monotonic()
        page.page.close()
        assert time.monotonic() - started_s < 4
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", page.port), timeout=2)


def test_a_stop_of_the_run_ends_the_page(page: ServedPage) -> None:
    page.stop.set()
    assert wait_for(lambda: not page.page._server._thread.is_alive(), 4)
    page.show()  # frames that still come cost nothing


def test_a_dead_reader_of_the_stream_is_let_go_with_its_connection(
    page: ServedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "READING_TIMEOUT_S", 0.3)
    connections = page.page._server._server.server_state.connections
    with socket.create_connection(("127.0.0.1", page.port)) as dead:
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dead.sendall(f"GET /stream.mjpg HTTP/1.1\r\nhost: {page.host}\r\n\r\n".encode())
        assert wait_for(lambda: page.hub.viewers == 1)
        noise = np.random.default_rng(0).integers(0, 256, (1280, 1280, 3), dtype=np.uint8)
        result = half_and_half((1280, 1280))
        gone = False
        for index in range(60):
            page.show(rgb=noise, result=replace(result, index=index))
            if gone := wait_for(lambda: page.hub.viewers == 0 and not connections, 0.2):
                break
        assert gone


def test_a_slow_reader_of_the_stream_is_kept(page: ServedPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READING_TIMEOUT_S", 2.0)
    # What the system buffers is little beside a picture of 1.5 MB, which takes this reader longer than the limit.
    page.page._server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    noise = np.random.default_rng(0).integers(0, 256, (1280, 1280, 3), dtype=np.uint8)
    result = half_and_half((1280, 1280))
    with socket.create_connection(("127.0.0.1", page.port), timeout=5) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        slow.sendall(f"GET /stream.mjpg HTTP/1.1\r\nhost: {page.host}\r\n\r\n".encode())
        for index in range(40):
            page.show(rgb=noise, result=replace(result, index=index))
            assert slow.recv(40_000)
            time.sleep(0.1)
        assert page.hub.viewers == 1


def test_half_a_character_is_refused_and_the_page_goes_on(page: ServedPage) -> None:
    page.show()
    with page.viewer() as viewer:
        viewer.next_where(lambda text: text.get("classes"))
        for path, asked in (("/view", {"hidden": ["\ud800"]}), ("/words", {"words": "a; \ud800"})):
            assert page.post(path, asked).status == 400
        page.show(result=numbered(7))
        viewer.next_where(shows(7))


def test_the_background_of_a_vocabulary_file_is_no_word_to_edit(page: ServedPage) -> None:
    page.page.begin(page.worker, ("background", "a", "b"), (), None)
    with page.viewer() as viewer:
        assert viewer.next()[0]["words"] == "a; b"
