"""Names of outputs in folders that several sources share: the path of the source below the folder that was named."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath


def names_below(paths: Sequence[str]) -> list[str]:
    """A name for what is made of each file: its path without suffix, or with it where another name would be the same.

    A file keeps its suffix too where a folder of files has its name without: masks of `clip.mp4` in the folder `clip`
    would lie among those of `clip/a.png`. Names differ in more than upper and lower case.

    Args:
        paths: of files, with `/`, below a folder; all different.

    >>> names_below(["a.jpg", "b/c.mp4", "b/c.png", "d.mp4", "d/e.png"])
    ['a', 'b/c.mp4', 'b/c.png', 'd.mp4', 'd/e']
    """
    folders = {str(folder).casefold() for path in paths for folder in PurePosixPath(path).parents}
    names = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    while True:
        times = Counter(name.casefold() for name in names)
        whole = [
            path if times[name.casefold()] > 1 or name.casefold() in folders else name
            for path, name in zip(paths, names, strict=True)
        ]
        if whole == names:
            return names
        names = whole


def common_root(words: Iterable[str]) -> Path:
    """The folder below which outputs keep the paths of their sources.

    One folder that was named, or the part of a pattern before its first wildcard; of a file its folder; of several words
    the folder that holds all of those.

    Args:
        words: paths and patterns as the user wrote them; at least one.

    >>> common_root(["in/a/*.mp4", "in/b/c.mp4"]).name
    'in'
    """
    return Path(os.path.commonpath([os.path.abspath(root_of(word)) for word in words]))  # noqa: PTH100


def root_of(word: str) -> str:
    """The folder that a path or a pattern begins in; `/` between its parts."""
    if Path(word).is_dir():
        return word
    parts = Path(word).parts
    if not Path(word).exists() and glob.has_magic(word):
        return str(Path(*parts[: next(at for at, part in enumerate(parts) if glob.has_magic(part))]))
    return str(Path(word).parent)


def path_below(root: Path, source: str) -> str:
    """The path of a source below the common root, with `/`; of the root itself its name."""
    path = Path(os.path.relpath(os.path.abspath(source), root))  # noqa: PTH100
    return root.name if path == Path() else path.as_posix()
