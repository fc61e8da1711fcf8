"""A headless Chromium that a test drives over the DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from tests.data.served_page import decoded

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)
PATIENCE_S = 30.0


def chromium() -> str | None:
    """The path of a Chromium, None where none is installed."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name)) is not None), None)


class Browser:
    """A Chromium with a new profile; a context manager.

    Attributes:
        log: what pages logged or threw: refused by the policy, not found, errors of scripts.
    """

    def __init__(self) -> None:
        program = chromium()
        if program is None:
            raise FileNotFoundError("no Chromium")
        self._profile = tempfile.TemporaryDirectory(prefix="nerve-chromium-", ignore_cleanup_errors=True)
        words = [program, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = Path(self._profile.name) / "DevToolsActivePort"
        deadline_s = time.monotonic() + PATIENCE_S
        while not (port_file.exists() and len(lines := port_file.read_text().splitlines()) == 2):
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                self.close()
                raise TimeoutError("Chromium did not open its DevTools port")
            time.sleep(0.05)
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        talking = connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_size=None)
        self._socket: ClientConnection = self._stack.enter_context(talking)
        self.log: list[str] = []

    def open(self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> "Tab":
        """A new tab with a page."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, target)
        tab.resize(width, height)
        tab.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        tab.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # each looks as if it were in front
        tab.ask("Runtime.enable")
        tab.ask("Log.enable")
        tab.ask("Page.enable")
        tab.ask("Page.navigate", url=url)
        return tab

    def ask(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        """The result of a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": given, **({"sessionId": session} if session else {})}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(PATIENCE_S))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") == "Log.entryAdded":
                self.log.append(answer["params"]["entry"]["text"])
            if answer.get("method") == "Runtime.exceptionThrown":
                self.log.append(json.dumps(answer["params"]["exceptionDetails"]))

    def close(self) -> None:
        """End the browser."""
        if hasattr(self, "_stack"):
            self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tab:
    """One page in the browser."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """The result of a command for this page."""
        return self._browser.ask(method, self._session, **given)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, within_s: float = PATIENCE_S) -> float:
        """Wait until an expression is true; the seconds it took."""
        started_s = time.monotonic()
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() - started_s < within_s, f"not within {within_s} s: {script}\n{self._browser.log}"
            time.sleep(0.02)
        return time.monotonic() - started_s

    def wait_until(self, what: str, holds: Callable[[], bool], within_s: float = PATIENCE_S) -> float:
        """Wait until something holds; the seconds it took."""
        started_s = time.monotonic()
        while not holds():
            assert time.monotonic() - started_s < within_s, f"not within {within_s} s: {what}\n{self._browser.log}"
            time.sleep(0.02)
        return time.monotonic() - started_s

    def canvas(self) -> NDArray[np.uint8]:
        """The pixels of the picture on the page, RGB uint8 (H, W, 3)."""
        url = self.run("document.getElementById('canvas').toDataURL('image/png')")
        png = base64.b64decode(url.partition(",")[2])
        picture = decoded(png)[..., :3]
        return np.asarray(picture[..., ::-1], dtype=np.uint8)

    def type_into(self, element: str, text: str) -> None:
        """Replace the text of a field as a person does: focus, select all, type."""
        self.run(f"document.getElementById('{element}').focus(); document.getElementById('{element}').select()")
        self.ask("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            down = {"text": text} if kind == "keyDown" and text else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **down)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size in pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def reload(self) -> None:
        """Load the page again."""
        self.ask("Page.reload")

    def screenshot(self, path: Path) -> None:
        """Write what is seen of the whole page as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.ask("Target.closeTarget", targetId=self._target)
