"""The user's list of engines that were built here. An engine is executable code, so others are refused by default."""

import json
import time
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_data_dir
from pydantic import ValidationError

from nerve_runtime.atomic import resource_errors, write_bytes_whole
from nerve_runtime.bundle.manifest import Sha256
from nerve_runtime.bundle.spec import StrictModel
from nerve_runtime.errors import ResourceError

LEDGER_NAME = "engines.json"
LOCK_TIMEOUT_S = 30


class _Note(StrictModel):
    about: str
    noted_s: int  # seconds since 1970


class _Notes(StrictModel):
    engines: dict[Sha256, _Note]


def default_ledger_path() -> Path:
    """Where the ledger of this user lies; nothing is made there."""
    return Path(user_data_dir("nerve-deploy")) / LEDGER_NAME


class Ledger:
    """Hashes of the engines that were built by this user; a file of a few kilobytes.

    Args:
        path: the file; by default the user's own. It need not exist.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_ledger_path()

    def note(self, sha256: str, about: str) -> None:
        """Add an engine, by the SHA-256 of its file in lower-case hex; `about` is for people to read.

        Raises:
            ResourceError: the ledger is damaged, cannot be written, or another program holds it for too long.
        """
        with resource_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(f"{self.path}.lock", timeout=LOCK_TIMEOUT_S):
                    engines = {
                        **self._read(),
                        sha256: _Note(
                            about=about.encode("utf-8", "backslashreplace").decode(), noted_s=int(time.time())
                        ),
                    }
                    notes = _Notes(engines=engines).model_dump(mode="json")
                    write_bytes_whole(self.path, (json.dumps(notes, indent=1) + "\n").encode())
            except Timeout as error:
                raise ResourceError(
                    f"another program has held {self.path}.lock for {LOCK_TIMEOUT_S} s; wait for it or stop it"
                ) from error

    def knows(self, sha256: str) -> bool:
        """Whether the engine with this SHA-256 was built here.

        Raises:
            ResourceError: the ledger is damaged or cannot be read.
        """
        return sha256 in self._read()

    def _read(self) -> dict[str, _Note]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ResourceError(f"the list of engines built here, {self.path}, cannot be read: {error}") from error
        try:
            return dict(_Notes.model_validate_json(content).engines)
        except ValidationError as error:
            raise ResourceError(
                f"the list of engines built here, {self.path}, is damaged ({len(content)} bytes that are no ledger); "
                "delete it, then build the engines again with: nerve-build engines BUNDLE --target auto --force"
            ) from error
