"""The hub behind one small door, so that everything about mirrors can be tested with folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from nerve_ref.weights.errors import MirrorError


@runtime_checkable
class Hub(Protocol):
    """What is asked of a hub; each method raises `MirrorError` if it cannot answer."""

    def commit(self, repository: str, revision: str) -> str:
        """The commit, 40 hex digits, that a branch or tag stands for now."""
        ...

    def file_facts(self, repository: str, commit: str) -> Mapping[str, tuple[int, str | None]]:
        """Size in bytes and, where the hub knows it (large files), SHA-256 of each file by its path."""
        ...

    def download(self, repository: str, commit: str, path: str, to: Path) -> Path:
        """Fetch one file into the folder `to`, under its path in the repository; returns where it lies: a real file."""
        ...


class HuggingFaceHub:
    """The public hub through huggingface_hub, which is imported when it is first asked."""

    def __init__(self, endpoint: str | None = None) -> None:
        """Ask `endpoint`, or the one that huggingface_hub is configured for (HF_ENDPOINT)."""
        self._endpoint = endpoint

    def commit(self, repository: str, revision: str) -> str:
        """See `Hub.commit`."""
        try:
            found = self._api(repository).model_info(repository, revision=revision).sha
        except _failures() as error:
            _refuse(repository, error)
        if found is None:
            raise MirrorError(f"the hub names no commit for revision {revision!r}")
        return found

    def file_facts(self, repository: str, commit: str) -> Mapping[str, tuple[int, str | None]]:
        """See `Hub.file_facts`."""
        try:
            entries = list(self._api(repository).list_repo_tree(repository, recursive=True, revision=commit))
        except _failures() as error:
            _refuse(repository, error)
        files = (entry for entry in entries if hasattr(entry, "size"))
        return {file.path: (file.size, file.lfs.sha256 if file.lfs else None) for file in files}

    def download(self, repository: str, commit: str, path: str, to: Path) -> Path:
        """See `Hub.download`."""
        api = self._api(repository)
        try:
            return Path(api.hf_hub_download(repository, path, revision=commit, local_dir=to))
        except _failures() as error:
            _refuse(repository, error)

    def _api(self, repository: str) -> Any:
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise MirrorError(
                f"{repository} cannot be fetched without huggingface_hub; install it: pip install 'nerve-deploy[export]'"
            ) from error
        return HfApi(endpoint=self._endpoint)


def _failures() -> tuple[type[Exception], ...]:
    """All that huggingface_hub raises when a hub cannot or will not serve: its own, httpx's and the system's errors."""
    from huggingface_hub import errors

    # The base class of its HTTP library, and an error that not every version has.
    further = (getattr(errors, name, OSError) for name in ("HTTPError", "XetDownloadError"))
    return (OSError, errors.HFValidationError, *further)


def _refuse(repository: str, error: Exception) -> NoReturn:
    """Say in a few words why the hub did not serve, the most telling class first."""
    from huggingface_hub import errors

    reasons: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, "it is gated: accept its terms on the hub and log in with `hf auth login`"),
        (errors.RepositoryNotFoundError, "it is gone or private (the hub answered 401 or 404)"),
        (errors.RevisionNotFoundError, "it no longer has the pinned commit"),
        (errors.EntryNotFoundError, "it no longer has the file, or the hub could not be reached"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
    )
    reason = next((reason for kind, reason in reasons if isinstance(error, kind)), None)
    if reason is None:
        detail = (str(error).strip().split("\n", 1)[0] or "no details")[:200]
        reason = f"the hub could not be reached or broke off ({type(error).__name__}: {detail})"
    raise MirrorError(reason) from error
