from pathlib import Path

import cv2
import numpy as np
import pytest

from nerve_runtime import Segmenter, SourceError, Temporal, UsageError
from tests.data.clips import halves

CLASSES = ("red", "grass", "sky")


def opened(bundle: Path) -> Segmenter:
    return Segmenter.open(bundle, classes=CLASSES, backend="fake", cache_dir=None, temporal=Temporal())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    cv2.imwrite(str(path), halves((40, 60))[..., ::-1])
    return path


def test_a_path_gives_what_its_pixels_give(bundle: Path, picture: Path) -> None:
    with opened(bundle) as segmenter:
        (of_path,), (of_name,), (of_pixels,) = segmenter(picture), segmenter(str(picture)), segmenter(halves((40, 60)))
    for result in (of_path, of_name):
        np.testing.assert_array_equal(result.labels, of_pixels.labels)
        np.testing.assert_array_equal(result.rgb, halves((40, 60)))


def test_pictures_of_a_list_are_segmented_each_by_itself(bundle: Path, picture: Path) -> None:
    with opened(bundle) as segmenter:
        results = segmenter([picture, halves((40, 60)), halves((20, 30))])
        assert [result.keyframe for result in results] == [True, True, True]
        assert [result.labels.shape for result in results] == [(40, 60), (40, 60), (20, 30)]


def test_the_segmenters_own_video_goes_on(bundle: Path, picture: Path) -> None:
    with opened(bundle) as segmenter:
        segmenter.segment(halves())
        segmenter(picture)
        assert not segmenter.segment(halves()).keyframe


def test_a_file_that_is_no_image_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with opened(bundle) as segmenter:
        with pytest.raises(SourceError, match="is no PNG, JPEG, BMP, WebP or TIFF image"):
            segmenter(tmp_path / "notes.txt")
        with pytest.raises(SourceError, match="cannot be read: No such file"):
            segmenter("missing.jpg")


def test_a_closed_segmenter_takes_no_picture(bundle: Path, picture: Path) -> None:
    segmenter = opened(bundle)
    segmenter.close()
    with pytest.raises(UsageError, match="was closed"):
        segmenter(picture)


def test_a_result_holds_the_frame_as_rgb_also_of_bgr_pixels(bundle: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    with opened(bundle) as segmenter:
        np.testing.assert_array_equal(segmenter.segment(rgb[..., ::-1].copy(), bgr=True).rgb, rgb)
