"""NERVE's thin runtime: a bundle, words and frames in, labels out, without torch.

>>> from nerve_runtime import Segmenter
>>> with Segmenter.open("bundles/tiny", classes=["ladybug", "grass"]) as segmenter:     # doctest: +SKIP
...     labels = segmenter.segment(rgb).labels

Names are imported when they are first used. Video files, cameras, overlays and commands are in `nerve_stream`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nerve_runtime.errors import (
    BundleError,
    CompatibilityError,
    HungError,
    NerveError,
    NumericError,
    ResourceError,
    SourceError,
    UsageError,
)

if TYPE_CHECKING:
    from nerve_runtime.bundle.spec import Readout
    from nerve_runtime.frames import Frame
    from nerve_runtime.graphs import Transfers
    from nerve_runtime.instances import InstanceTracker
    from nerve_runtime.labels import BACKGROUND_NAME, IGNORE_LABEL, Labels, ignore_label, label_dtype
    from nerve_runtime.result import FrameResult, Instance, Instances
    from nerve_runtime.segmenter import Constants, Segmenter
    from nerve_runtime.temporal import EVERY_FRAME, Between, Temporal
    from nerve_runtime.vocabulary.class_list import ClassList

__all__ = [
    "BACKGROUND_NAME", "EVERY_FRAME", "IGNORE_LABEL", "Between", "BundleError", "ClassList", "CompatibilityError",
    "Constants", "Frame", "FrameResult", "HungError", "Instance", "InstanceTracker", "Instances", "Labels", "NerveError", "NumericError", "Readout", "ResourceError",
    "Segmenter", "SourceError", "Temporal", "Transfers", "UsageError", "__version__", "ignore_label", "label_dtype",
]  # fmt: skip

_MODULES = {
    "bundle.spec": ("Readout",),
    "frames": ("Frame",),
    "graphs": ("Transfers",),
    "instances": ("InstanceTracker",),
    "labels": ("BACKGROUND_NAME", "IGNORE_LABEL", "Labels", "ignore_label", "label_dtype"),
    "result": ("FrameResult", "Instance", "Instances"),
    "segmenter": ("Constants", "Segmenter"),
    "temporal": ("EVERY_FRAME", "Between", "Temporal"),
    "vocabulary.class_list": ("ClassList",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module; `__version__` is that of nerve-deploy, "source" where it is not installed."""
    if name == "__version__":
        installed = import_module("importlib.metadata").distributions(name="nerve-deploy")
        return next((distribution.version for distribution in installed), "source")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names and nothing else."""
    return sorted(__all__)
