"""From what a user names to the inputs of a job: files, folders of any depth, patterns, and the same behind URLs."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nerve_runtime import SourceError, UsageError
from nerve_stream.outputs.naming import names_below, root_of
from nerve_stream.redaction import redacted
from nerve_stream.scaleout.job import JobInput, Places
from nerve_stream.scaleout.storage import is_url, remote_path, source_errors
from nerve_stream.sources.addresses import is_address, is_live
from nerve_stream.sources.expanding import pattern_matches
from nerve_stream.sources.images import IMAGE_SUFFIXES, natural_order
from nerve_stream.sources.registry import video_suffixes

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "udp", "tcp", "srt"})


@dataclass(frozen=True, slots=True)
class _Found:
    source: str
    size_bytes: int
    path: str
    """Absolute, with `/`; of a URL its parts as folders, so that all inputs have a place in one tree."""


def find_inputs(words: Sequence[str], places: Places) -> list[JobInput]:
    """The inputs of a job, each once, in natural order within a folder.

    Of a folder and all folders in it the videos and pictures are taken, but for hidden folders and the folders of
    outputs; of a pattern what it matches, likewise. Files that are named are taken as they are.

    Args:
        words: paths, patterns and URLs as the user wrote them.
        places: the folders of outputs.

    Raises:
        UsageError: one is a camera or a stream.
        SourceError: a folder or a pattern holds nothing, or a URL cannot be listed.
        CompatibilityError: what a URL needs is not installed.
    """
    outputs = {kind: _real_tree_path(place) for kind, place in places.named().items()}
    found: dict[str, _Found] = {}
    for word in words:
        _refuse_live(word)
        for one in _found_by(word, outputs):
            found.setdefault(one.source, one)
    root = os.path.commonpath([tree_path(_root_of(word)) for word in words])
    below = [os.path.relpath(one.path, root) for one in found.values()]
    outside = [path for path in below if path.startswith("..")]
    if outside:
        raise SourceError(f"source {outside[0]} has .. in its name, expected a path without; rename it")
    suffixes = [os.path.splitext(one.path)[1].lower() for one in found.values()]  # noqa: PTH122
    return [
        JobInput(one.source, name, suffix in IMAGE_SUFFIXES, one.size_bytes)
        for one, name, suffix in zip(found.values(), names_below(below), suffixes, strict=True)
    ]


def _refuse_live(word: str) -> None:
    scheme = word.partition(":")[0].lower()
    if scheme in LIVE_SCHEMES if is_address(word) else is_live(word):
        raise UsageError(
            f"source {redacted(word)} is a camera or a stream, expected files; --workers and --ray take what ends, "
            "run it without them"
        )


def _root_of(word: str) -> str:
    if not is_url(word):
        return root_of(word)
    remote = remote_path(word)
    if _has_magic(word):
        base = remote.path[: next(at for at, letter in enumerate(remote.path) if letter in "*[")]
        return _url(remote.system, base.rpartition("/")[0])
    with source_errors(word):
        is_folder = remote.system.isdir(remote.path)
    return word if is_folder else _url(remote.system, remote.path.rpartition("/")[0])


def tree_path(place: str) -> str:
    """A path or URL as an absolute path with `/`, so that all have a place in one tree."""
    if not is_url(place):
        return f"/file{os.path.abspath(place)}"  # noqa: PTH100
    scheme, _, rest = place.partition("://")
    # A ? begins what is no part of a path, which may hold a secret.
    return os.path.normpath(f"/{scheme.rpartition('::')[2]}/{rest.partition('?')[0].lstrip('/')}")


def _real_tree_path(place: str) -> str:
    """As `tree_path`, with links followed: a folder of outputs may be reached by two names."""
    return tree_path(place if is_url(place) else os.path.realpath(place))


def _found_by(word: str, outputs: Mapping[str, str]) -> Iterator[_Found]:
    matched = _remote(word) if is_url(word) else _local(word)
    any_match, left_out = False, ""
    for one in matched:
        path = one.path if is_url(one.source) else _real_tree_path(os.path.dirname(one.source))  # noqa: PTH120
        within = next((kind for kind, output in outputs.items() if f"{path}/".startswith(f"{output}/")), None)
        if within is None:
            any_match = True
            yield one
        left_out = within or left_out
    if not any_match and left_out:
        raise SourceError(
            f"{redacted(word)} lies in the folder of outputs --{left_out}, whose files are no inputs; choose another folder"
        )
    if not any_match:
        suffixes = ", ".join(sorted(video_suffixes() | IMAGE_SUFFIXES))
        raise SourceError(f"{redacted(word)} holds no video or picture, expected files ending in {suffixes}")


def _local(word: str) -> Iterator[_Found]:
    path = Path(word)
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists() and glob.has_magic(word):
        for match in map(Path, pattern_matches(word)):
            yield from _in_folder(match) if match.is_dir() else [_file(match)]
    else:
        yield _file(path)


def _in_folder(folder: Path) -> Iterator[_Found]:
    known = video_suffixes() | IMAGE_SUFFIXES
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_name_order)
        files = [Path(parent, name) for name in names if not name.startswith(".")]
        yield from (_file(path) for path in sorted(files, key=natural_order) if path.suffix.lower() in known)


def _name_order(name: str) -> tuple[list[tuple[int, str]], str]:
    return natural_order(Path(name))


def _file(path: Path) -> _Found:
    absolute = os.path.abspath(path)  # noqa: PTH100 - a link keeps its own name
    # What is missing becomes an input all the same: it fails, by name, and the others are done.
    size_bytes = path.stat().st_size if path.is_file() else 0
    return _Found(absolute, size_bytes, tree_path(absolute))


def _remote(word: str) -> Iterator[_Found]:
    remote = remote_path(word)
    system, known = remote.system, tuple(video_suffixes() | IMAGE_SUFFIXES)
    with source_errors(word):
        if _has_magic(word):
            infos = system.glob(remote.path, detail=True)
        elif system.isdir(remote.path):
            infos = system.find(remote.path, detail=True)
        else:
            infos = {remote.path: system.info(remote.path) if system.exists(remote.path) else {}}
            known = ("",)
    yield from _of_listing(system, infos.items(), known)


def _of_listing(
    system: object, infos: Iterable[tuple[str, dict[str, object]]], known: tuple[str, ...]
) -> Iterator[_Found]:
    for path, info in sorted(infos, key=lambda entry: _walk_order(entry[0])):
        if info.get("type") != "directory" and path.lower().endswith(known):
            url, size = _url(system, path), info.get("size")
            yield _Found(url, size if isinstance(size, int) else 0, tree_path(url))


def _walk_order(path: str) -> list[tuple[bool, object]]:
    """Sort key that puts the files of a folder before its folders, as `os.walk` gives them."""
    *folders, name = path.split("/")
    return [*((True, _name_order(folder)) for folder in folders), (False, _name_order(name))]


def _has_magic(url: str) -> bool:
    return any(letter in url for letter in "*[")


def _url(system: object, path: str) -> str:
    url: str = system.unstrip_protocol(path)  # type: ignore[attr-defined]  # of fsspec
    return url
