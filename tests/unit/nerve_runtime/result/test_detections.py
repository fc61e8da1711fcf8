import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.errors import CompatibilityError
from nerve_runtime.result import FrameResult


@dataclass
class StandIn:
    """The constructor of `supervision.Detections`, and nothing more."""

    xyxy: NDArray[np.float32]
    mask: NDArray[np.bool_]
    class_id: NDArray[np.int_]
    confidence: NDArray[np.float32]
    data: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("supervision")
    module.Detections = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", module)


def three_regions() -> FrameResult:
    """Background, a box of label 1 with confidences 255 and 127 in equal parts, and a row without label."""
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[2:4, 3:7] = 1
    labels[5] = 255
    confidence = np.full((6, 8), 51, dtype=np.uint8)
    confidence[2, 3:7], confidence[3, 3:7] = 255, 127
    return FrameResult(labels, confidence, ("background", "car", "never seen"), 0, None, {}, True, 0, True)


@pytest.mark.usefixtures("supervision")
def test_each_class_seen_is_one_detection_and_background_is_none() -> None:
    found: StandIn = three_regions().to_detections()
    np.testing.assert_array_equal(found.xyxy, [[3, 2, 6, 3]])
    assert (found.class_id.tolist(), found.data["class_name"].tolist()) == ([1], ["car"])
    np.testing.assert_allclose(found.confidence, [191 / 255], rtol=1e-6)
    assert found.mask.shape == (1, 6, 8)
    np.testing.assert_array_equal(found.mask[0], three_regions().labels == 1)


@pytest.mark.usefixtures("supervision")
def test_the_background_is_given_when_asked_for() -> None:
    found: StandIn = three_regions().to_detections(background=True)
    assert found.data["class_name"].tolist() == ["background", "car"]
    np.testing.assert_array_equal(found.xyxy[0], [0, 0, 7, 4])
    np.testing.assert_allclose(found.confidence[0], 0.2, rtol=1e-6)


@pytest.mark.usefixtures("supervision")
def test_a_frame_without_labels_gives_no_detections_of_the_right_shapes() -> None:
    nothing = np.full((6, 8), 255, dtype=np.uint8)
    found: StandIn = FrameResult(nothing, nothing, ("a",), 0, None, {}, True, 0, False).to_detections()
    assert (found.xyxy.shape, found.mask.shape, found.class_id.shape) == ((0, 4), (0, 6, 8), (0,))


def test_without_supervision_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(CompatibilityError, match="not installed; run: pip install supervision"):
        three_regions().to_detections()
