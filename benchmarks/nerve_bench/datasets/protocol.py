"""How a figure on a benchmark was made: everything that another choice would change, written into every report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nerve_bench.datasets import BENCHMARKS
from nerve_runtime import IGNORE_LABEL
from nerve_runtime.errors import UsageError
from nerve_runtime.vocabulary.class_list import ClassList
from nerve_stream.cli.text_files import read_text_lines

Resize = Literal["stretch", "tiles"]
BackgroundRule = Literal["none", "words", "threshold", "cam"]

METRIC = "mIoU over classes that occur, of one confusion matrix over all pixels at original resolution"
CLIP_SIDE_PX = 336
"""The short side that the field gives CLIP; a working frame is one such window, so larger ones are tiled."""
BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a benchmark was run; figures of different protocols are not to be compared.

    Attributes:
        dataset: name of the benchmark.
        classes: words of each class in use, the name shown first, in the order of the labels.
        class_names: the benchmark's own names of these classes.
        left_out: classes that a class file left out: never found, their pixels ignored.
        background: words that together are label 0; empty where there is no background.
        background_rule: "none"; "words": a pixel is background where these words win; "threshold": there, and where no
            class reaches `threshold`; "cam": as threshold, each class's scores divided by their maximum in the picture.
        threshold: least score that is not background, 0 to 1; 0 is none.
        templates: name of the set of sentences that words are put into.
        resize: "stretch": the whole picture becomes one working frame; "tiles": short side to `short_side_px`, then
            overlapping working frames with one joint set of pooled keys.
        working_hw: pixels of a working frame.
        short_side_px: short side of the picture that is tiled; None when stretched.
        field_short_side_px: what the field uses for CLIP alone.
        overlap: least share of a tile that its neighbour sees too; None when stretched.
        unlabelled_is_background: whether unlabelled pixels count as background rather than not at all.
        ignore_value: label of pixels that are not counted.
        metric: what is reported.
    """

    dataset: str
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]
    background: tuple[str, ...]
    background_rule: BackgroundRule
    threshold: float
    templates: str
    resize: Resize
    working_hw: tuple[int, int]
    short_side_px: int | None
    field_short_side_px: int
    overlap: float | None
    unlabelled_is_background: bool
    ignore_value: int = IGNORE_LABEL
    metric: str = METRIC

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return ((BACKGROUND,) if self.background else ()) + self.class_names

    def labels_in_use(self) -> NDArray[np.uint8]:
        """uint8 (256,): the benchmark's labels as labels of the classes in use; what is left out becomes 255."""
        names = BENCHMARKS[self.dataset].class_names
        kept = {name: label for label, name in enumerate(self.label_names)}
        full = (BACKGROUND, *names) if BENCHMARKS[self.dataset].background else names
        table = np.full(256, IGNORE_LABEL, np.uint8)
        table[: len(full)] = [kept.get(name, IGNORE_LABEL) for name in full]
        return table

    def as_json(self) -> dict[str, Any]:
        """All of it, as a report shows it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Choices:
    """What may be chosen about a protocol; None keeps what the benchmark or the segmenter brings.

    Attributes:
        classes_file: other words for the classes, see `read_class_words`.
        background_rule: see `Protocol`.
        threshold: see `Protocol`.
        resize: see `Protocol`.
        overlap: see `Protocol`.
    """

    classes_file: Path | None = None
    background_rule: BackgroundRule | None = None
    threshold: float | None = None
    resize: Resize | None = None
    overlap: float = 0.25


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a segmenter brings: size of its working frame, its threshold and templates, and whether it can tile."""

    working_hw: tuple[int, int]
    threshold: float
    templates: str
    can_tile: bool


def make_protocol(dataset: str, choices: Choices, defaults: Defaults) -> Protocol:
    """The protocol of a run.

    Pictures are stretched unless told, but for a benchmark whose pictures the field sees in windows (Cityscapes):
    these are tiled where the segmenter can.

    Raises:
        UsageError: a choice makes no sense, or the segmenter cannot do it.
    """
    benchmark = BENCHMARKS[dataset]
    protocol = Protocol(
        dataset=dataset,
        classes=benchmark.classes,
        class_names=benchmark.class_names,
        left_out=(),
        background=benchmark.background,
        background_rule="none",
        threshold=0.0,
        templates=defaults.templates,
        resize="stretch",
        working_hw=defaults.working_hw,
        short_side_px=None,
        field_short_side_px=benchmark.short_side_px,
        overlap=None,
        unlabelled_is_background=benchmark.unlabelled_is_background,
    )
    if choices.classes_file is not None:
        protocol = _reworded(protocol, choices.classes_file)
    return _resized(_with_background_rule(protocol, choices, defaults), choices, defaults)


def _with_background_rule(protocol: Protocol, choices: Choices, defaults: Defaults) -> Protocol:
    rule = choices.background_rule or ("threshold" if protocol.background else "none")
    if rule not in get_args(BackgroundRule):
        raise UsageError(f"the background rule is {rule!r}, expected one of: {', '.join(get_args(BackgroundRule))}")
    if (rule != "none") != bool(protocol.background):
        has = "has" if protocol.background else "has no"
        raise UsageError(f"the background rule is {rule!r}, but {protocol.dataset} {has} background; leave it out")
    if rule in ("none", "words"):
        if choices.threshold is not None:
            raise UsageError(f"a threshold has no meaning under the background rule {rule!r}; leave one of them out")
        return replace(protocol, background_rule=rule)
    threshold = defaults.threshold if choices.threshold is None else choices.threshold
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is {threshold}, expected 0 to 1")
    if rule == "cam" and not defaults.can_tile:
        raise UsageError("the background rule 'cam' needs scores, and a bundle gives labels; use the reference")
    return replace(protocol, background_rule=rule, threshold=threshold)


def _resized(protocol: Protocol, choices: Choices, defaults: Defaults) -> Protocol:
    windows = protocol.field_short_side_px / CLIP_SIDE_PX
    resize = choices.resize or ("tiles" if windows > 1 and defaults.can_tile else "stretch")
    if resize not in get_args(Resize):
        raise UsageError(f"the resize rule is {resize!r}, expected one of: {', '.join(get_args(Resize))}")
    if resize == "stretch":
        return protocol
    if not defaults.can_tile:
        raise UsageError(
            "a bundle takes one working frame at a time and keeps its keys to itself, so its tiles cannot see each "
            "other; use the reference for tiles, or --resize stretch"
        )
    if not 0 <= choices.overlap < 1:
        raise UsageError(f"the overlap of tiles is {choices.overlap}, expected 0 to below 1")
    short_side_px = round(windows * min(protocol.working_hw))
    return replace(protocol, resize=resize, short_side_px=short_side_px, overlap=choices.overlap)


def _reworded(protocol: Protocol, path: Path) -> Protocol:
    words = read_class_words(protocol.dataset, path)
    background = tuple(word.strip() for word in words.pop(BACKGROUND, "").split(",") if word.strip())
    if bool(background) != bool(protocol.background):
        wanted = "needs a line 'background = words'" if protocol.background else "has no background, remove its line"
        raise UsageError(f"class file {path}: {protocol.dataset} {wanted}")
    kept = tuple(name for name in protocol.class_names if name in words)
    checked = ClassList.of([words[name] for name in kept], background)
    return replace(
        protocol,
        class_names=kept,
        classes=tuple(", ".join(group) for group in checked.synonyms[bool(background) :]),
        left_out=tuple(name for name in protocol.class_names if name not in words),
        background=background,
    )


def read_class_words(dataset: str, path: Path) -> dict[str, str]:
    """Words of classes from a file with a line `class of the benchmark = word, synonym` each, `#` before remarks.

    `background` is the name of the background. Classes that have no line are left out of the run.

    Raises:
        UsageError: the file is not usable; names the line.
    """
    known = (*BENCHMARKS[dataset].class_names, BACKGROUND)
    words: dict[str, str] = {}
    for number, line in read_text_lines(path, "class file"):
        name, equals, text = (part.strip() for part in line.partition("="))
        where = f"class file {path}, line {number}"
        if not equals or not text:
            raise UsageError(f"{where} is {line!r}, expected 'class of the benchmark = word, synonym'")
        if name not in known:
            raise UsageError(f"{where}: {name!r} is no class of {dataset}; see: nerve-bench evaluate --print-classes")
        if name in words:
            raise UsageError(f"{where}: {name!r} was given words already; write them on one line")
        words[name] = text
    return words


def all_words(protocol: Protocol) -> Sequence[str]:
    """Every word that is looked for, background included."""
    return [word.strip() for text in (*protocol.classes, *protocol.background) for word in text.split(",")]
