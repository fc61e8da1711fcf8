"""The user's list of engines that were built here. An engine is executable code, so others are refused by default."""

from pathlib import Path

from platformdirs import user_data_dir
from pydantic import ValidationError

from nerve_runtime.bundle.manifest import Sha256
from nerve_runtime.bundle.spec import StrictModel
from nerve_runtime.errors import ResourceError

LEDGER_NAME = "engines.json"


class LedgerEntry(StrictModel):
    """What is noted of an engine, for people."""

    about: str
    noted_s: int  # seconds since 1970


class LedgerFile(StrictModel):
    """The content of a ledger."""

    engines: dict[Sha256, LedgerEntry]


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

    def knows(self, sha256: str) -> bool:
        """Whether the engine with this SHA-256 was built here; raises as `entries` does."""
        return sha256 in self.entries()

    def entries(self) -> dict[str, LedgerEntry]:
        """All engines by SHA-256; none where there is no ledger yet.

        Raises:
            ResourceError: the ledger is damaged or cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ResourceError(f"the list of engines built here, {self.path}, cannot be read: {error}") from error
        try:
            return dict(LedgerFile.model_validate_json(content).engines)
        except ValidationError as error:
            raise ResourceError(
                f"the list of engines built here, {self.path}, is damaged ({len(content)} bytes that are no ledger); "
                "delete it, then build the engines again with: nerve-build engines BUNDLE --target auto --force"
            ) from error
