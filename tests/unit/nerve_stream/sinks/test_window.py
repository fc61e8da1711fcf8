from typing import Any

import cv2
import numpy as np
import pytest

from nerve_runtime.errors import CompatibilityError
from nerve_stream.sinks.window import Key, Window, tiled
from tests.data.clips import halves


class Screen:
    """Stands in for OpenCV's window system: keeps what is shown, and presses the keys it is told to."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.keys: list[int] = []
        self.visible = 1.0

    def show(self, title: str, picture: Any) -> None:
        self.shown.append(picture)

    def key(self, wait_ms: int) -> int:
        return self.keys.pop(0) if self.keys else -1


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    stand_in = Screen()
    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
    monkeypatch.setattr(cv2, "imshow", stand_in.show)
    monkeypatch.setattr(cv2, "waitKeyEx", stand_in.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, which: stand_in.visible)
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: None)
    return stand_in


def test_only_the_newest_picture_is_shown_and_only_once(screen: Screen) -> None:
    with Window("NERVE", lambda key: None) as window:
        window.update("a", np.zeros((4, 4, 3), dtype=np.uint8))
        window.update("a", halves((4, 4)))
        window.refresh()
        window.refresh()
    (shown,) = screen.shown
    np.testing.assert_array_equal(shown[..., ::-1], halves((4, 4)))


def test_keys_ask_for_what_they_say(screen: Screen) -> None:
    asked: list[Key] = []
    window = Window("NERVE", asked.append)
    screen.keys = [ord(" "), 65361, 65363, 0x250000, 63235, ord("x"), ord("q") | 0x100000, 27]
    for _ in range(9):
        window.refresh()
    assert asked == ["pause", "back", "forward", "back", "forward", "quit", "quit"]


def test_closing_the_window_asks_to_quit_once(screen: Screen) -> None:
    asked: list[Key] = []
    window = Window("NERVE", asked.append)
    screen.visible = 0.0
    window.refresh()
    window.update("a", halves())
    window.refresh()
    window.refresh()
    assert asked == ["quit"]


def test_sources_are_shown_side_by_side_in_tiles_of_the_first_ones_shape(screen: Screen) -> None:
    window = Window("NERVE", lambda key: None)
    for name, value in (("a", 50), ("b", 100), ("c", 150)):
        window.update(name, np.full((40, 60, 3) if name != "c" else (80, 60, 3), value, dtype=np.uint8))
    window.refresh()
    (shown,) = screen.shown
    assert shown.shape == (80, 120, 3)
    assert (shown[:40, :60] == 50).all()
    assert (shown[:40, 60:] == 100).all()
    assert (shown[40:, 15:45] == 150).all()
    assert (shown[40:, :15] == 0).all()
    assert (shown[40:, 60:] == 0).all()


def test_many_large_pictures_still_fit_a_screen() -> None:
    height, width = tiled([np.zeros((1080, 1920, 3), dtype=np.uint8)] * 5).shape[:2]
    assert height <= 1080
    assert width <= 1920


def test_an_opencv_without_windows_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(title: str, flags: int) -> None:
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(CompatibilityError, match="install opencv-python in place of opencv-python-headless"):
        Window("NERVE", lambda key: None)
