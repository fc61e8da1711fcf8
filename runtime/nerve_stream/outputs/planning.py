"""What `nerve-segment` writes for each source, and what it refuses to overwrite."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nerve_runtime import UsageError
from nerve_runtime.atomic import link_target, refuse_existing
from nerve_runtime.drawing import OverlayStyle
from nerve_stream.exports import FORMATS, PNG_FORMATS, export_sink, refuse_export
from nerve_stream.outputs.naming import common_root, names_below, path_below
from nerve_stream.sinks import (
    JsonLines,
    MaskFile,
    MaskFolder,
    MaskFormat,
    OutgoingStream,
    OverlayFolder,
    OverlayPicture,
    OverlayVideo,
    Sink,
    safe_name,
)
from nerve_stream.sinks.base import refuse_filled_folder
from nerve_stream.sinks.masks import CLASSES_FILE, refuse_mask_folder, refuse_mask_format
from nerve_stream.sinks.pictures import PICTURE_SUFFIXES
from nerve_stream.sinks.video import CONTAINERS, refuse_size
from nerve_stream.sources.addresses import is_address, is_live
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.opening import is_picture

STDOUT = "-"
SourceKind = Literal["picture", "pictures", "video"]
"""One image file, a folder of image files, or anything else."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What to write for one source, and how."""

    overlay: Path | None
    masks: Path | None
    mask_format: MaskFormat
    jsonl: Path | None
    out: str | None
    rle: bool
    follow: bool
    style: OverlayStyle
    force: bool
    resume: bool
    reproducible: bool = False
    shared_masks: bool = False
    exports: tuple[tuple[str, Path], ...] = ()
    instances: bool = False

    @property
    def takes_stdout(self) -> bool:
        """Whether stdout carries results, so that paths have to be printed to stderr."""
        return self.out == STDOUT or str(self.jsonl) == STDOUT

    def for_source(self, name: str, place: str, kind: SourceKind, *, of_several: bool) -> "Outputs":
        """The outputs of one source.

        Of several sources, an output that is named as a folder holds each source's at its place below that folder, and
        one that is named as a file has the source's name in its own. A picture's overlay lies in a folder in any case.

        Args:
            name: short, without folders.
            place: path without suffix below the folders of the outputs.
            kind: of the source.
            of_several: the run has several sources.
        """
        overlay, masks, jsonl = self.overlay, self.masks, self.jsonl
        in_folder = masks is not None and masks.suffix.lower() != ".png"
        if of_several:
            jsonl = jsonl if jsonl is None or str(jsonl) == STDOUT else _of_several(jsonl, name, f"{place}.jsonl")
            inside = f"{place}.png" if kind == "picture" else place
            masks = masks and (masks / inside if in_folder else _with_name(masks, name))
        if overlay is not None and not overlay.suffix and kind == "picture":
            overlay = overlay / f"{place}.png"
        elif overlay is not None and of_several:
            overlay = _of_several(overlay, name, place if kind == "pictures" else f"{place}.mp4")
        shared = of_several and kind == "picture" and in_folder
        exports = self.exports
        if of_several:
            exports = tuple((form, _of_several(path, name, place)) for form, path in exports)
        return replace(self, overlay=overlay, masks=masks, jsonl=jsonl, exports=exports, shared_masks=shared)

    def paths(self) -> list[Path]:
        """Files and folders that are written."""
        jsonl = None if str(self.jsonl) == STDOUT else self.jsonl
        exports = (path for _, path in self.exports)
        return [path for path in (self.overlay, self.masks, jsonl, *exports) if path is not None]

    def staged_paths(self) -> list[Path]:
        """Files and folders that are written under a temporary name first: `paths`, and what is moved into them."""
        classes = [self.masks.with_name(CLASSES_FILE)] if self.shared_masks and self.masks is not None else []
        inside = [path / name for form, path in self.exports for name in FORMATS[form].inside]
        return [*self.paths(), *classes, *inside]

    def png_folders(self) -> list[Path]:
        """Folders that get a PNG of each picture's name; masks that are one file count too."""
        masks = [] if self.masks is None else [self.masks]
        return masks + [path for form, path in self.exports if form in PNG_FORMATS]


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A source as the user named it, a short name that no other source of the run has, its kind and its outputs."""

    source: str
    name: str
    kind: SourceKind
    outputs: Outputs


def source_kind(source: str) -> SourceKind:
    """What a source is; a folder of videos was expanded before, an animated PNG is a video."""
    if is_address(source):
        return "video"
    return "pictures" if Path(source).is_dir() else "picture" if is_picture(Path(source)) else "video"


def plan_sources(
    sources: Sequence[str], outputs: Outputs, status_json: Path | None = None, *, root: Path | None = None
) -> list[PlannedSource]:
    """Give each source a short name and outputs of its own; with several sources the outputs' names contain it.

    Args:
        sources: as the user named them; patterns and folders of videos are expanded.
        outputs: of all.
        status_json: the status file.
        root: the folder below which folders of outputs keep the paths of the sources (default: one that holds all).

    Raises:
        UsageError: an output or the status file would overwrite another output or a source.
    """
    if len(sources) > 1 and outputs.out is not None:
        raise UsageError(f"--out sends one stream, but there are {len(sources)} sources; name one, or leave it out")
    names: dict[str, str] = {}
    for source in sources:
        names[safe_name(_short_name(source), names)] = source
    places = _places(sources, root) if len(sources) > 1 else {}
    planned = []
    for name, source in names.items():
        kind = source_kind(source)
        # A source that was named twice has its place once, and its other name beside that.
        place = places.pop(source, name)
        own = outputs.for_source(name, place, kind, of_several=len(sources) > 1)
        planned.append(PlannedSource(source, name, kind, own))
    refuse_conflicts(sources, [plan.outputs for plan in planned], status_json)
    return planned


def _places(sources: Sequence[str], root: Path | None) -> dict[str, str]:
    """Where the outputs of each file or folder lie below the folders that all share; cameras and addresses have no place."""
    paths = list(dict.fromkeys(source for source in sources if not is_live(source)))
    if not paths:
        return {}
    below = root or common_root(paths)
    return dict(zip(paths, names_below([path_below(below, path) for path in paths]), strict=True))


def _of_several(path: Path, name: str, inside: str) -> Path:
    return _with_name(path, name) if path.suffix else path / inside


def _with_name(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def _short_name(source: str) -> str:
    """A file's name without suffix, or the host and path of an address, without credentials."""
    if not is_address(source):
        return Path(source).stem or source
    # Credentials go first: a password may hold a ?, and half of it would be left.
    return source.partition("://")[2].rpartition("@")[2].partition("?")[0]


def refuse_conflicts(sources: Sequence[str], outputs: Sequence[Outputs], status_json: Path | None = None) -> None:
    """Refuse, before anything is written, outputs that would overwrite a source or each other, even with --force.

    Raises:
        UsageError: two outputs share a path, an output is a source, masks would go into a folder of source pictures, or
            the status file is a pipe, which would wait for a reader each second.
    """
    written = [link_target(path) for of_source in outputs for path in of_source.paths()]
    if status_json is not None:
        refuse_existing(status_json, force=True)
        written.append(link_target(status_json))
    duplicates = sorted(str(path) for path, times in Counter(written).items() if times > 1)
    if duplicates:
        raise UsageError(f"two outputs would be written to {', '.join(duplicates)}; give each a path of its own")
    existing = [link_target(Path(source)) for source in sources if Path(source).exists()]
    png_folders = {link_target(folder) for of_source in outputs for folder in of_source.png_folders()}
    among_pngs = [path for path in written if path.suffix.lower() == ".png" and path.parent in png_folders]
    if among_pngs:
        raise UsageError(f"{among_pngs[0]} would lie among the masks of that folder; give each a folder of its own")
    overwritten = set(written)
    for source in existing:
        if source in overwritten:
            raise UsageError(f"output {source} is the source itself; choose another name")
        if source.parent in png_folders:
            raise UsageError(
                f"masks would be written to {source.parent}, which holds the source {source.name}; choose another folder"
            )


def refuse_outputs(plan: PlannedSource) -> None:
    """Refuse outputs of a source that cannot be written, before anything is opened.

    Raises:
        UsageError: one exists and neither `--force` nor, for masks, `--resume` is given; its suffix or the format of the
            masks is unknown; or one file is to hold the masks or the overlay of more than a picture.
    """
    outputs, force = plan.outputs, plan.outputs.force
    if outputs.jsonl and str(outputs.jsonl) != STDOUT:
        refuse_existing(outputs.jsonl, force=force, pipes=True)
    if outputs.masks:
        refuse_mask_format(outputs.mask_format)
        if outputs.masks.suffix.lower() != ".png":
            refuse_mask_folder(outputs.masks, force=force or outputs.resume)
        elif plan.kind != "picture":
            raise UsageError(
                f"--masks {outputs.masks} is one file, but {plan.source} is no single picture; name a folder"
            )
        else:
            refuse_existing(outputs.masks, force=force)
            if outputs.shared_masks:
                refuse_existing(outputs.masks.with_name(CLASSES_FILE), force=force or outputs.resume)
    if outputs.overlay:
        _refuse_overlay(outputs.overlay, plan.kind, force=force)
    for form, path in outputs.exports:
        refuse_export(form, path, force=force)


def _refuse_overlay(path: Path, kind: SourceKind, *, force: bool) -> None:
    if kind == "pictures" and not path.suffix:
        refuse_filled_folder("overlays", path, force=force)
        return
    allowed = (*PICTURE_SUFFIXES, *CONTAINERS) if kind == "picture" else tuple(CONTAINERS)
    if path.suffix.lower() not in allowed:
        folder = ", or a folder without suffix for a PNG of each picture" if kind == "pictures" else ""
        raise UsageError(f"overlay {path} ends in {path.suffix!r}, expected one of {', '.join(allowed)}{folder}")
    refuse_existing(path, force=force)


@contextmanager
def open_sinks(outputs: Outputs, frames: FrameSource, source: str) -> Iterator[list[Sink]]:
    """Open the sinks of a source; all commit at the end of the block, or all abort.

    Args:
        outputs: of this source.
        frames: gives the size and frame rate.
        source: its name, for JSON lines.
    """
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if outputs.jsonl:
            lines = JsonLines(
                outputs.jsonl,
                rle=outputs.rle,
                source=source,
                follow=outputs.follow,
                force=outputs.force,
                timings=not outputs.reproducible,
            )
            sinks.append(stack.enter_context(lines))
        if outputs.masks:
            sinks.append(stack.enter_context(_mask_sink(outputs, outputs.masks)))
        if outputs.overlay:
            sinks.append(stack.enter_context(_overlay_sink(outputs, outputs.overlay, frames)))
        for form, path in outputs.exports:
            sinks.append(stack.enter_context(export_sink(form, path, force=outputs.force)))
        if outputs.out:
            if frames.size_hw == (0, 0):
                raise UsageError("--out has to know the size of the picture; leave out --wait-for-source")
            refuse_size("the stream of --out", frames.size_hw)
            sinks.append(
                stack.enter_context(OutgoingStream(outputs.out, frames.size_hw, fps=frames.fps, style=outputs.style))
            )
        yield sinks


def _mask_sink(outputs: Outputs, path: Path) -> Sink:
    if path.suffix.lower() == ".png":
        return MaskFile(path, outputs.mask_format, classes=outputs.shared_masks, force=outputs.force)
    return MaskFolder(path, outputs.mask_format, force=outputs.force, resume=outputs.resume)


def _overlay_sink(outputs: Outputs, path: Path, frames: FrameSource) -> Sink:
    suffix = path.suffix.lower()
    if not suffix:
        return OverlayFolder(path, style=outputs.style, force=outputs.force)
    if suffix in PICTURE_SUFFIXES:
        return OverlayPicture(path, style=outputs.style, force=outputs.force)
    return OverlayVideo(
        path,
        frames.size_hw,
        fps=frames.fps,
        style=outputs.style,
        force=outputs.force,
        reproducible=outputs.reproducible,
    )
