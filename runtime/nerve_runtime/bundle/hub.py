"""Bundles on the Hugging Face hub: from `hf://owner/name@revision` to a verified folder in the user's cache."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from filelock import FileLock
from platformdirs import user_cache_path

from nerve_runtime.atomic import resource_errors, write_bytes_whole
from nerve_runtime.bundle.manifest import (
    MANIFEST_LIMIT_BYTES,
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    file_sha256,
    load_manifest,
    manifest_bytes,
)
from nerve_runtime.bundle.transfer import fetch_file
from nerve_runtime.errors import BundleError, CompatibilityError, ResourceError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
GIGABYTE = 1e9
UNFINISHED = ".unfinished"
"""Suffix of a folder that is still being fetched."""
# A Path made of hf://owner/name has one slash less.
ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
SCHEME = re.compile(r"hf:/")
PATH_LIMIT = 200
"""Characters of a path in a bundle, whose own have 20: in a thousand folders nothing can be made or deleted."""
COMMIT = re.compile(r"[0-9a-f]{40}")
REFUSED_STATUS = (401, 403)

logger = logging.getLogger("nerve_runtime")


class UnreachableError(ResourceError):
    """The hub did not answer, or may not be asked."""


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository of models on the hub, at a revision.

    Attributes:
        repository: owner/name.
        revision: a commit of 40 hex digits, a branch or a tag; None where none is named.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str | Path) -> "HubAddress | None":
        """The address in `hf://owner/name@revision`; None where the text is the path of a folder.

        Raises:
            UsageError: it begins with hf:// and goes on otherwise.
        """
        text = str(text)
        if not SCHEME.match(text):
            return None
        match = ADDRESS.fullmatch(text)
        if match is None:  # it is not shown: somebody may have put a token into it
            raise UsageError(
                "the address of the bundle is not hf://owner/name or hf://owner/name@revision; write it so. A token "
                "does not belong into it, it comes from HF_TOKEN or `hf auth login`"
            )
        return cls(match["repository"], match["revision"])

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always is the same bundle."""
        return COMMIT.fullmatch(self.revision or "") is not None

    def __str__(self) -> str:
        """As it is written: hf://owner/name@revision."""
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def bundle_folder(bundle: str | Path, *, strict: bool = False) -> Path:
    """The folder of a bundle: a path as it is, of `hf://owner/name@revision` the user's copy, fetched if it is not there.

    Only the files that the bundle's manifest lists are fetched, without engines, which are executable code; each is
    compared with its SHA-256. A commit that is there needs no network. A branch or tag is asked for each time.

    Args:
        bundle: a folder, or an address on the hub.
        strict: refuse what is not pinned by a commit.

    Raises:
        UsageError: the address is malformed, or not pinned where `strict`.
        BundleError: there is no such repository or revision, it holds no bundle, or a file is not the manifest's.
        ResourceError: no network, no rights, or no space.
        CompatibilityError: huggingface_hub is not installed.
    """
    address = HubAddress.parse(bundle)
    if address is None:
        return Path(bundle)
    store = fetched_bundles() / address.repository.replace("/", "--")
    commit = _commit(address, store, strict=strict)
    folder = store / commit
    if folder.is_dir():
        return folder
    pinned = HubAddress(address.repository, commit)
    with resource_errors(store):
        store.mkdir(parents=True, exist_ok=True)
        # Two processes fetch one after the other; the second finds the folder of the first.
        with FileLock(store / f".{commit}.lock"):
            if not folder.is_dir():
                unfinished = store / f"{commit}{UNFINISHED}"
                _fetch_bundle(pinned, unfinished)
                unfinished.rename(folder)
    return folder


def fetched_bundles() -> Path:
    """Where bundles of the hub lie: owner--name/commit. Nothing is made there."""
    return user_cache_path("nerve-deploy") / "bundles"


def without_engines(manifest: Manifest) -> Manifest:
    """The manifest of a bundle that travels: engines are executable code for one machine, made there."""
    engines = {engine.path for engine in manifest.engines}
    files = {path: record for path, record in manifest.files.items() if path not in engines}
    return manifest.model_copy(update={"engines": (), "files": files})


def hub_api(what: str) -> "HfApi":
    """The client of the hub, with its endpoint and token from their usual places (HF_ENDPOINT, HF_TOKEN).

    Args:
        what: is wanted from the hub, for the message.

    Raises:
        CompatibilityError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise CompatibilityError(
            f"{what} needs huggingface_hub (not installed); run: pip install huggingface_hub"
        ) from error
    return HfApi()


@contextmanager
def hub_errors(address: HubAddress, path: str = MANIFEST_NAME) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence.

    Args:
        address: what the hub is asked about.
        path: the file that it is asked for.

    Raises:
        UsageError: the hub's client finds the name malformed.
        BundleError: there is no such repository, revision or file.
        UnreachableError: the hub did not answer.
        ResourceError: the repository is gated, or the token has no rights; or the file cannot be written here.
    """
    from huggingface_hub import errors

    # The base class of the client's HTTP library, whichever it is.
    http_error = getattr(errors, "HTTPError", OSError)
    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"{address} is no address on the hub: {_first_line(error)}") from error
    except errors.GatedRepoError as error:
        raise ResourceError(
            f"{address} is gated: accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(
            f"{address}: the hub has no such repository, or it is private; check the name, or log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"{address}: the repository has no revision {address.revision or MAIN}; check it") from error
    except errors.EntryNotFoundError as error:
        raise BundleError(f"{address}: the repository has no {path}; it holds no bundle, or not all of one") from error
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError(
            f"{address} cannot be asked for: HF_HUB_OFFLINE is set; unset it, or give a commit that was fetched before"
        ) from error
    except (OSError, http_error) as error:
        raise _other_error(address, error) from error


def _other_error(address: HubAddress, error: Exception) -> ResourceError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in REFUSED_STATUS:
        return ResourceError(
            f"{address}: the hub refuses (HTTP {status}): there is no token, or it has no rights to this; log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return ResourceError(f"{address} cannot be kept here: {error.strerror}; free space, or make the cache writable")
    return UnreachableError(
        f"{address}: the hub could not be reached or broke off ({type(error).__name__}: {_first_line(error)}); check the "
        "network, then try again"
    )


def _first_line(error: Exception) -> str:
    """What an error says, without the queries of addresses: those of large files carry signatures."""
    line = (str(error).strip().split("\n", 1)[0] or "no details")[:200]
    return re.sub(r"\?\S*", "", line)


def _commit(address: HubAddress, store: Path, *, strict: bool) -> str:
    """The commit of a revision; of a branch or tag what it is now, or, where nobody answers, what it was last."""
    revision = address.revision or MAIN
    if address.is_pinned:
        return revision
    if strict:
        raise UsageError(
            f"{address} is not pinned: strict takes a commit of 40 hex digits after @, not the branch or tag {revision}; "
            "opened without strict, it says which commit that is"
        )
    seen = store / "revisions" / f"{quote(revision, safe='')}.txt"
    last = seen.read_text(encoding="ascii").strip() if seen.is_file() else None
    try:
        commit = _asked_commit(address, revision)
    except UnreachableError as error:
        if last is None or not (store / last).is_dir():
            raise
        logger.warning("%s; opened is %s, its commit when it was last asked for", error, last)
        return last
    if last is not None and last != commit:
        logger.warning("hf://%s: %s moved from commit %s to %s", address.repository, revision, last, commit)
    logger.warning("%s is a name that can move; now it is hf://%s@%s", address, address.repository, commit)
    write_bytes_whole(seen, f"{commit}\n".encode())
    return commit


def _asked_commit(address: HubAddress, revision: str) -> str:
    api = hub_api(str(address))
    with hub_errors(address):
        commit = str(api.model_info(address.repository, revision=revision).sha)
    if not COMMIT.fullmatch(commit):
        raise BundleError(f"{address}: the hub names {commit[:50]!r} as its commit, expected 40 hex digits")
    return commit


def _fetch_bundle(address: HubAddress, folder: Path) -> None:
    """Fetch what is missing of a bundle: the manifest first, then the files that it lists and no others."""
    # Asked once, without the five attempts that a file gets: what cannot be reached or is refused is said at once.
    _asked_commit(address, str(address.revision))
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    _fetch_file(address, MANIFEST_NAME, folder, MANIFEST_LIMIT_BYTES)
    try:
        manifest = load_manifest(folder)
    except BundleError as error:
        raise BundleError(f"{address} holds no bundle that can be opened: {error}") from error
    kept = without_engines(manifest)
    if longest := max((len(path) for path in kept.files if len(path) > PATH_LIMIT), default=0):
        raise BundleError(
            f"{address}: a path of its manifest has {longest} characters, expected at most {PATH_LIMIT}; tell its owner"
        )
    if kept != manifest:
        (folder / MANIFEST_NAME).write_bytes(manifest_bytes(kept))
    total = sum(record.bytes for record in kept.files.values())
    here = sum(_bytes_here(folder / path, record) for path, record in kept.files.items())
    _refuse_full_disk(address, folder, total - here)
    # The bar is drawn on a terminal only.
    with _hub_utilities().tqdm(
        desc=f"fetching {address.repository}", total=total, initial=here, unit="B", unit_scale=True, disable=None
    ) as bar:
        for path, record in kept.files.items():
            _fetch_verified(address, path, folder, record, bar)


def _bytes_here(path: Path, record: FileRecord) -> int:
    """How much of a file was fetched before; what is longer than it may be is thrown away."""
    if not path.is_file():
        return 0
    if path.stat().st_size > record.bytes:
        path.unlink()
        return 0
    return path.stat().st_size


def _refuse_full_disk(address: HubAddress, folder: Path, missing_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing_bytes > free:
        raise ResourceError(
            f"{address} takes {missing_bytes / GIGABYTE:.2f} GB more in {folder.parent}, {free / GIGABYTE:.2f} GB are "
            "free; free space"
        )


def _fetch_verified(address: HubAddress, path: str, folder: Path, record: FileRecord, bar: Any) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if record.bytes == 0:
        target.touch()
    if not target.is_file() or target.stat().st_size < record.bytes:
        _fetch_file(address, path, folder, record.bytes, record.bytes, bar)
    found = file_sha256(target)
    if target.stat().st_size != record.bytes or found != record.sha256:
        target.unlink()
        raise BundleError(
            f"{address}: {path} came with sha256 {found[:12]}..., its manifest says {record.sha256[:12]}...; what came is "
            "deleted. Try once more; if it comes again, the repository was tampered with: tell its owner"
        )


def _fetch_file(
    address: HubAddress,
    path: str,
    folder: Path,
    limit_bytes: int,
    expected_bytes: int | None = None,
    bar: Any = None,
) -> None:
    """Fetch one file to its path in the folder, from the byte on at which an earlier attempt was cut off."""
    with hub_errors(address, path):
        fetch_file(
            address.repository, str(address.revision), path, folder / path,
            limit_bytes=limit_bytes, expected_bytes=expected_bytes, bar=bar,
        )  # fmt: skip


def _hub_utilities() -> Any:
    """huggingface_hub.utils, whose names are documented and not exported for type checkers."""
    return import_module("huggingface_hub.utils")
