"""The hub behind two questions, so that everything about mirrors can be tested with folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from nerve_ref.weights.errors import MirrorError

Answer = TypeVar("Answer")


@runtime_checkable
class Hub(Protocol):
    """A hub of repositories; each method raises `MirrorError` if the hub cannot answer."""

    def files(self, repository: str, revision: str) -> tuple[str, Mapping[str, tuple[int, str | None]]]:
        """The commit (40 hex digits) of a revision, and of each file the size in bytes and, if large, the SHA-256."""
        ...

    def download(self, repository: str, commit: str, path: str, folder: Path) -> Path:
        """Fetch one file into `folder`, under its path in the repository; returns where it lies: a real file."""
        ...


class HuggingFaceHub:
    """The public hub through huggingface_hub, which is imported at the first question."""

    def __init__(self, endpoint: str | None = None) -> None:
        """Ask `endpoint`, or the one that huggingface_hub is configured for (HF_ENDPOINT)."""
        self._endpoint = endpoint

    def files(self, repository: str, revision: str) -> tuple[str, Mapping[str, tuple[int, str | None]]]:
        """See `Hub.files`."""
        answer = self._ask(repository, lambda api: api.model_info(repository, revision=revision, files_metadata=True))
        return str(answer.sha), {
            file.rfilename: (file.size, file.lfs.sha256 if file.lfs else None) for file in answer.siblings or ()
        }

    def download(self, repository: str, commit: str, path: str, folder: Path) -> Path:
        """See `Hub.download`."""
        return Path(
            self._ask(
                repository, lambda api: api.hf_hub_download(repository, path, revision=commit, local_dir=folder), path
            )
        )

    def _ask(self, repository: str, question: Callable[[Any], Answer], path: str = "") -> Answer:
        try:
            from huggingface_hub import HfApi, errors
        except ImportError as error:
            raise MirrorError(
                f"{repository} cannot be fetched without huggingface_hub; install it: pip install 'nerve-deploy[export]'"
            ) from error
        # The base class of its HTTP library, and an error that not every version has.
        others = (getattr(errors, name, OSError) for name in ("HTTPError", "XetDownloadError"))
        try:
            return question(HfApi(endpoint=self._endpoint))
        except (OSError, errors.HFValidationError, *others) as error:
            raise MirrorError(_reason(error, path)) from error


def _reason(error: Exception, path: str) -> str:
    """Why the hub did not serve, the most telling class first."""
    from huggingface_hub import errors

    detail = (str(error).strip().split("\n", 1)[0] or "no details")[:200]
    unreachable = f"the hub could not be reached or broke off ({type(error).__name__}: {detail})"
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, "it is gated: accept its terms on the hub and log in with `hf auth login`"),
        (errors.RepositoryNotFoundError, "it is gone or private (the hub answered 401 or 404)"),
        (errors.RevisionNotFoundError, "it no longer has the pinned commit"),
        (errors.LocalEntryNotFoundError, unreachable),
        (errors.EntryNotFoundError, f"it no longer has the file {path}"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), unreachable)
