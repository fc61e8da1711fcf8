"""A large bundle on a processor says what a frame takes before the first one is waited for."""

import pytest

from nerve_runtime.bundle.manifest import Manifest
from nerve_stream.cli import estimate


def with_gmac(manifest: Manifest, gmac: float) -> Manifest:
    stages = {name: record.model_copy(update={"gmac": gmac}) for name, record in manifest.stages.items()}
    return manifest.model_copy(update={"stages": stages})


def test_the_time_of_a_keyframe_follows_from_its_work_and_the_speed_measured(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_gmac_per_second", lambda: 100.0)
    notice = estimate.slow_frame_notice(with_gmac(manifest, 140.0), "ort: onnxruntime 1.31, cpu, threads default")
    assert notice is not None
    assert notice.startswith("a keyframe takes about 10 s on this processor (700 GMAC)")


def test_small_bundles_and_other_devices_are_not_estimated(manifest: Manifest) -> None:
    assert estimate.slow_frame_notice(with_gmac(manifest, 0.1), "cpu") is None
    assert estimate.slow_frame_notice(with_gmac(manifest, 140.0), "ort: onnxruntime 1.31, cuda") is None


def test_the_speed_is_measured_in_less_than_a_second() -> None:
    assert 1 < estimate._gmac_per_second() < 1e5
