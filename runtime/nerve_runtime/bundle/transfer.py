"""One file of the Hugging Face hub, appended to a file of ours, so that a download goes on where it was cut off."""

import io
import logging
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from nerve_runtime.errors import BundleError

BUSY_STATUS = (500, 502, 503, 504)
"""Answers of a hub that may serve a moment later; huggingface_hub itself asks again after 429."""
ATTEMPTS = 5
"""How often a busy hub is asked again, without a byte in between."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
"""A hub that asks for more patience than this is given up: whoever waits may try again later."""

logger = logging.getLogger("nerve_runtime")


class Bar(Protocol):
    """What counts the bytes as they come, such as a bar of tqdm."""

    def update(self, n: int, /) -> object:
        """So many bytes more; less than none where the hub began anew."""
        ...


class _NoBar:
    def update(self, n: int, /) -> None:
        """Nobody looks."""


class TooLongError(BundleError):
    """The hub sends more of a file than it may have."""


def fetch_file(
    repository: str,
    revision: str,
    path: str,
    target: Path,
    *,
    limit_bytes: int,
    expected_bytes: int | None = None,
    bar: Bar | None = None,
    endpoint: str | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Append to `target` what it lacks of a file; what is there already is taken for its beginning.

    `hf_hub_download` and `snapshot_download` of huggingface_hub 2 delete what a killed download has; `http_get`, which
    they call, is given our file and goes on. A cut connection is taken up again, a busy hub is asked again after the
    time that it names (Retry-After).

    Args:
        repository: owner/name.
        revision: a commit, a branch or a tag.
        path: of the file in the repository.
        target: where it goes; its folder exists.
        limit_bytes: longer than this it may not become.
        expected_bytes: its size, where that is known.
        bar: hears of the bytes as they come.
        endpoint: of the hub; the one that huggingface_hub is configured for (HF_ENDPOINT) by default.
        wait: waits for so many seconds.

    Raises:
        TooLongError: the file is longer than it may be; what came is deleted.
        OSError: it cannot be written; likewise what huggingface_hub raises where the hub does not serve the file.
    """
    from huggingface_hub import errors, hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(repository, path, revision=revision, endpoint=endpoint)
    headers = {**import_module("huggingface_hub.utils").build_hf_headers(), "Accept-Encoding": "identity"}
    failures = 0
    while True:
        with _LimitedFile(target, limit_bytes, repository, path) as stream:
            before = stream.tell()
            try:
                http_get(
                    url, stream, resume_size=before, headers=headers, expected_size=expected_bytes,
                    displayed_filename=path, _tqdm_bar=bar or _NoBar(),
                )  # fmt: skip
            except (OSError, getattr(errors, "HTTPError", OSError)) as error:
                came = stream.tell() > before
                failures = 1 if came else failures + 1
                pause_s = _pause_s(error, failures, came=came)
                if pause_s is None:
                    raise
            else:
                return
        if pause_s:
            logger.warning("the hub is busy, %s is asked for again in %.0f s", path, pause_s)
        wait(pause_s)


def _pause_s(error: Exception, failures: int, *, came: bool) -> float | None:
    """How long to wait before the hub is asked again; None where that has no sense."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is None or status is None:  # the connection broke; http_get went on itself while it could
        return 0.0 if came and getattr(error, "errno", None) is None else None
    if status not in BUSY_STATUS or failures > ATTEMPTS:
        return None
    named = response.headers.get("Retry-After", "")
    pause_s = float(named) if named.isascii() and named.isdigit() else FIRST_WAIT_S * 2 ** (failures - 1)
    return pause_s if pause_s <= LONGEST_WAIT_S else None


class _LimitedFile(io.BufferedWriter):
    """A file that is appended to, up to a size: a hub that sends more than was said would fill the disk."""

    def __init__(self, target: Path, limit_bytes: int, repository: str, path: str) -> None:
        super().__init__(io.FileIO(target, "ab"))
        self._target, self._limit_bytes, self._named = target, limit_bytes, f"{repository}: {path}"

    def write(self, content: Any) -> int:
        """Append all of it.

        Raises:
            TooLongError: the file would become longer than it may be; it is deleted.
        """
        if self.tell() + len(content) > self._limit_bytes:
            self._target.unlink()
            raise TooLongError(
                f"{self._named} is longer than {self._limit_bytes} bytes, which it may not be; what came is deleted"
            )
        return super().write(content)
