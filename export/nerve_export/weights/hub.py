"""The public hub through huggingface_hub, which is imported at the first question."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.errors import MirrorError, StorageError
from nerve_ref.weights.files import ResolvedWeights, WeightChoice, resolve_weights
from nerve_ref.weights.formats import MOST_JSON_BYTES
from nerve_runtime.bundle.transfer import TooLongError, fetch_file
from nerve_runtime.errors import BundleError, ResourceError

Answer = TypeVar("Answer")
MOST_BYTES = 50_000_000_000
"""Of a file whose size nobody knows."""


class DownloadProgress(Protocol):
    """What hears of files and their bytes, such as `nerve_export.weights.progress.DownloadBars`."""

    def expect(self, total_bytes: int, here_bytes: int) -> None:
        """All files together: how many bytes, and how many of them are here already."""
        ...

    def begin(self, name: str, total_bytes: int | None, here_bytes: int) -> None:
        """A file begins, or goes on."""
        ...

    def update(self, n: int, /) -> None:
        """So many bytes more of the file that began last."""
        ...

    def end(self) -> None:
        """The file that began last is here."""
        ...


def resolved_weights(
    backbones: Backbones,
    choice: WeightChoice,
    tell: Callable[[str], None],
    progress: DownloadProgress | None = None,
) -> ResolvedWeights:
    """Find, fetch from the hub where needed, and check all files of a variant; see `resolve_weights`.

    Raises:
        BundleError: a file is missing, withdrawn, cut off, swapped or refused.
        ResourceError: there is no space for what would be fetched, or it cannot be written.
    """
    try:
        return resolve_weights(backbones, choice, tell, hub=HuggingFaceHub(progress=progress))
    except StorageError as error:
        raise ResourceError(str(error)) from error
    except ValueError as error:
        raise BundleError(str(error)) from error


class HuggingFaceHub:
    """The public hub; see `nerve_ref.weights.hub.Hub` for its methods."""

    def __init__(self, endpoint: str | None = None, progress: DownloadProgress | None = None) -> None:
        """Ask `endpoint`, or the one that huggingface_hub is configured for (HF_ENDPOINT)."""
        self._endpoint = endpoint
        self._progress = progress

    def files(self, repository: str, revision: str) -> tuple[str, Mapping[str, tuple[int, str | None]]]:
        """See `Hub.files`."""
        answer = self._ask(repository, lambda api: api.model_info(repository, revision=revision, files_metadata=True))
        return str(answer.sha), {
            file.rfilename: (file.size, file.lfs.sha256 if file.lfs else None) for file in answer.siblings or ()
        }

    def expect(self, total_bytes: int, here_bytes: int) -> None:
        """See `Hub.expect`."""
        if self._progress is not None:
            self._progress.expect(total_bytes, here_bytes)

    def download(self, repository: str, commit: str, path: str, target: Path, size: int | None) -> None:
        """See `Hub.download`."""
        here = target.stat().st_size if target.is_file() else 0
        if self._progress is not None:
            self._progress.begin(f"{repository}/{path}", size, here)
        limit = size if size is not None else MOST_JSON_BYTES if path.endswith(".json") else MOST_BYTES
        with _one_reason(repository, path):
            fetch_file(
                repository, commit, path, target, limit_bytes=limit, expected_bytes=size,
                bar=self._progress, endpoint=self._endpoint,
            )  # fmt: skip
        if self._progress is not None:
            self._progress.end()

    def _ask(self, repository: str, question: Callable[[Any], Answer]) -> Answer:
        with _one_reason(repository, ""):
            from huggingface_hub import HfApi

            return question(HfApi(endpoint=self._endpoint))


@contextmanager
def _one_reason(repository: str, path: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one reason; that our own disk is full or not writable stays an OSError."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise MirrorError(
            f"{repository} cannot be fetched without huggingface_hub; install it: pip install 'nerve-deploy[export]'"
        ) from error
    try:
        yield
    except TooLongError as error:
        raise MirrorError(str(error)) from error
    # The base class of its HTTP library, whichever it is.
    except (OSError, errors.HFValidationError, getattr(errors, "HTTPError", OSError)) as error:
        is_ours = isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)
        if is_ours and not isinstance(error, errors.HfHubHTTPError):
            raise
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
