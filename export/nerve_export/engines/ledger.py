"""Notes engines in the user's ledger as built here, which lets the runtime load them."""

import json
import time

from filelock import FileLock, Timeout

from nerve_runtime.atomic import resource_errors, write_bytes_whole
from nerve_runtime.bundle.ledger import Ledger, LedgerEntry, LedgerFile
from nerve_runtime.errors import ResourceError

LOCK_TIMEOUT_S = 30


def note_engine(ledger: Ledger, sha256: str, about: str) -> None:
    """Add an engine, by the SHA-256 of its file in lower-case hex; `about` is for people to read.

    Raises:
        ResourceError: the ledger is damaged, cannot be written, or another program holds it for too long.
    """
    about = about.encode("utf-8", "backslashreplace").decode()
    with resource_errors(ledger.path):
        ledger.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{ledger.path}.lock", timeout=LOCK_TIMEOUT_S):
                engines = {**ledger.entries(), sha256: LedgerEntry(about=about, noted_s=int(time.time()))}
                content = LedgerFile(engines=engines).model_dump(mode="json")
                write_bytes_whole(ledger.path, (json.dumps(content, indent=1) + "\n").encode())
        except Timeout as error:
            raise ResourceError(
                f"another program has held {ledger.path}.lock for {LOCK_TIMEOUT_S} s; wait for it or stop it"
            ) from error
