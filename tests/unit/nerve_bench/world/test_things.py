"""The atlas of things, and the words that name them."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_bench.world import atlas
from nerve_bench.world.atlas import body_share, thing_picture, write_atlas
from nerve_bench.world.textures import STUFF
from nerve_bench.world.things import PICTURE_PX, SYNONYMS, THINGS, thing_pictures, words_of
from nerve_runtime.errors import UsageError


def disc(center_xy: tuple[int, int] = (128, 128)) -> NDArray[np.uint8]:
    picture = np.zeros((256, 256, 4), np.uint8)
    return np.asarray(cv2.circle(picture, center_xy, 60, (20, 120, 220, 255), cv2.FILLED), np.uint8)


def write_package(folder: Path, picture: NDArray[np.uint8]) -> Path:
    (folder / "assets").mkdir(parents=True)
    for number, code in enumerate(THINGS.values()):
        suffix = "-fe0f" if number % 2 else ""
        cv2.imwrite(str(folder / "assets" / f"{code}{suffix}.webp"), picture, [cv2.IMWRITE_WEBP_QUALITY, 101])
    return folder


def test_there_are_64_things_of_one_body_each() -> None:
    assert len(THINGS) == len(set(THINGS.values())) == 64
    assert not set(THINGS) & set(STUFF)
    pictures = thing_pictures()
    assert pictures.shape == (64, PICTURE_PX, PICTURE_PX, 4)
    shares = {name: body_share(picture[..., 3]) for name, picture in zip(THINGS, pictures, strict=True)}
    assert min(shares.values()) >= 0.97, shares


def test_no_two_things_are_told_apart_by_their_names_alone() -> None:
    seen = [picture[..., :3] * (picture[..., 3:] / 255) for picture in thing_pictures()]
    apart = {pair: float(np.abs(seen[pair[0]] - seen[pair[1]]).mean()) for pair in combinations(range(len(seen)), 2)}
    # Of 255 levels, over the whole picture; the nearest two, dog and cat, are at 13.
    assert min(apart.values()) > 10, min(apart, key=lambda pair: apart[pair])


def test_a_word_names_one_class() -> None:
    words = [word for name in (*STUFF, *THINGS) for word in words_of(name)]
    assert len(words) == len(set(words))
    assert set(SYNONYMS) <= {*STUFF, *THINGS}
    assert words_of("car") == ("car", "automobile")
    assert words_of("zebra") == ("zebra",)


def test_an_atlas_holds_what_the_package_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atlas(write_package(tmp_path / "package", disc()), tmp_path / "things.webp")
    read = cv2.imread(str(tmp_path / "things.webp"), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert read.shape == (1024, 1024, 4)
    cell = read[3 * 128 : 4 * 128, 5 * 128 : 6 * 128]
    assert (cell[64, 64, 3], cell[2, 2, 3]) == (255, 0)
    assert np.abs(cell[64, 64, :3].astype(int) - (20, 120, 220)).max() < 8
    assert abs(np.mean(cell[..., 3] > 127) - np.pi * 60**2 / 256**2) < 0.01


def test_what_is_no_picture_of_one_thing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"has no picture of dog: expected .*1f415\.webp; is it the unpacked npm package"
    ):
        thing_picture(tmp_path, "dog")
    two = np.maximum(disc((64, 64)), disc((190, 190)))
    with pytest.raises(UsageError, match=r"dog is of several bodies, the largest has 0\.5\d of it"):
        thing_picture(write_package(tmp_path / "two", two), "dog")
    with pytest.raises(UsageError, match="is no picture with an alpha channel"):
        thing_picture(write_package(tmp_path / "opaque", disc()[..., :3]), "dog")


def test_the_script_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = write_package(tmp_path / "package", disc())
    assert atlas.main([str(package), "--out", str(tmp_path / "a.webp")]) == 0
    assert "64 things" in capsys.readouterr().err


def test_transparent_pixels_lend_no_colour(tmp_path: Path) -> None:
    green_outside = disc()
    green_outside[green_outside[..., 3] == 0] = (0, 255, 0, 0)
    small = atlas.shrunk(green_outside)
    rim = (small[..., 3] > 40) & (small[..., 3] < 250)
    assert rim.any()
    assert np.abs(small[rim][:, :3].astype(int) - (20, 120, 220)).max() < 5
