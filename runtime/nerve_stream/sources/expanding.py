"""From what a user writes on a command line to a list of sources: patterns and folders of videos."""

import glob
from pathlib import Path

from nerve_runtime import SourceError
from nerve_stream.redaction import redacted
from nerve_stream.sources.addresses import is_address
from nerve_stream.sources.images import IMAGE_SUFFIXES, files_ending_in, natural_order
from nerve_stream.sources.registry import video_suffixes


def expand_sources(sources: list[str]) -> list[str]:
    """Replace patterns by the files they match, and folders of videos by their videos, all in natural order.

    A folder of images is one source and stays as it is, as do files, camera numbers and URLs. What exists under the name
    itself is never taken for a pattern. Of what a pattern matches, files are taken, those with the suffix of a video or
    an image if there are any; only if it matches no file, the folders it matches. What is in the list already is not
    added again.

    Args:
        sources: paths, patterns (`*`, `?`, `[...]`, and `**` for folders of any depth), camera numbers, URLs.

    Raises:
        SourceError: a pattern matches nothing, or a folder holds both images and videos.
    """
    expanded: list[str] = []
    for source in sources:
        if is_address(source) or Path(source).exists() or not glob.has_magic(source):
            expanded += _of_folder(source)
            continue
        matches = [one for match in pattern_matches(source) for one in _of_folder(match)]
        known = set(expanded)
        expanded += [match for match in matches if match not in known]
    return expanded


def pattern_matches(pattern: str) -> list[str]:
    """What a pattern matches: the videos and images if there are any, else the files, else the folders.

    Raises:
        SourceError: it matches nothing.
    """
    # Path.glob refuses absolute patterns, and `**` of it gives folders only before Python 3.13.
    paths = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    files = [path for path in paths if path.is_file()]
    readable = [path for path in files if path.suffix.lower() in video_suffixes() | IMAGE_SUFFIXES]
    chosen = readable or files or paths
    if not chosen:
        raise SourceError(f"pattern {redacted(pattern)} matches nothing; check it, and quote it against the shell")
    return [str(path) for path in sorted(chosen, key=_by_folder)]


def _by_folder(path: Path) -> list[tuple[list[tuple[int, str]], str]]:
    return [natural_order(Path(part)) for part in path.parts]


def _of_folder(source: str) -> list[str]:
    folder = Path(source)
    if is_address(source) or not folder.is_dir():
        return [source]
    videos = files_ending_in(video_suffixes(), folder)
    if not videos:
        return [source]
    images = files_ending_in(IMAGE_SUFFIXES, folder)
    if images:
        raise SourceError(
            f"folder {folder} holds {len(images)} images and {len(videos)} videos, expected one kind; "
            f"name the videos, for instance '{folder}/*{videos[0].suffix}', or move the images to a folder of their own"
        )
    return [str(path) for path in videos]
