"""Labels drawn over frames: colours of classes, overlays, legends."""

from nerve_runtime.drawing.colours import class_colours, least_distance
from nerve_runtime.drawing.legend import with_legend
from nerve_runtime.drawing.overlays import DEFAULT_STYLE, OverlayStyle, overlay

__all__ = ["DEFAULT_STYLE", "OverlayStyle", "class_colours", "least_distance", "overlay", "with_legend"]
