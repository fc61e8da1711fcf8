import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_bench.world import STUFF
from nerve_bench.world.textures import texture

PATCH_PX = 16
SMOOTH = ("sky", "snow")
"""Their structure is wider than a patch; colour alone names them."""


def _texture(name: str, seed: int) -> NDArray[np.float32]:
    return texture(name, np.random.default_rng(seed), (128, 128), 1.0)


def _patches(image: NDArray[np.float32]) -> NDArray[np.float32]:
    count = image.shape[0] // PATCH_PX
    grid = image.reshape(count, PATCH_PX, count, PATCH_PX, 3).swapaxes(1, 2)
    return grid.reshape(-1, PATCH_PX, PATCH_PX, 3)


def _signatures(name: str, seeds: range) -> NDArray[np.float64]:
    """Colour, contrast and roughness of every patch: float64 (patches, 8)."""
    patches = np.concatenate([_patches(_texture(name, seed)) for seed in seeds]).astype(np.float64)
    grey = patches.mean(-1)
    roughness = [np.abs(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    return np.concatenate([patches.mean((1, 2)), patches.std((1, 2)), np.stack(roughness, 1)], 1)


@pytest.mark.parametrize("name", [name for name in STUFF if name not in SMOOTH])
def test_a_patch_shows_the_whole_pattern(name: str) -> None:
    image = _texture(name, 3)
    contrast = _patches(image).std((1, 2)).mean(-1)
    # 0.7: the least contrast seen in a patch is 0.72 of the whole (water).
    assert contrast.min() > 0.7 * image.std((0, 1)).mean()


@pytest.mark.parametrize("name", [name for name in STUFF if name not in SMOOTH])
def test_a_patch_has_the_mean_colour_of_its_texture(name: str) -> None:
    image = _texture(name, 3)
    # 15 of 255 levels: the worst seen is 12.
    assert np.abs(_patches(image).mean((1, 2)) - image.mean((0, 1))).max() < 15


def test_a_single_patch_names_its_ground_when_the_light_is_even() -> None:
    """Independent check that grounds differ in what a patch can see: a nearest-class rule on eight plain statistics."""
    known = [_signatures(name, range(12)) for name in STUFF]
    centers = np.stack([signature.mean(0) for signature in known])
    spreads = np.stack([signature.std(0) + 2 for signature in known])
    for label, name in enumerate(STUFF):
        seen = _signatures(name, range(100, 106))[:, None]
        distance = (((seen - centers) / spreads) ** 2 + 2 * np.log(spreads)).sum(-1)
        assert np.mean(distance.argmin(1) == label) > 0.95, name


def test_two_instances_of_a_ground_differ_in_tint() -> None:
    means = np.stack([_texture("sand", seed).mean((0, 1)) for seed in range(20)])
    assert (means.std(0) > 1).all()
    # The tint is drawn from 0.88 to 1.1; 2 % for the noise of a mean.
    assert (means.max(0) / means.min(0) < 1.1 / 0.88 * 1.02).all()


def test_an_unknown_ground_is_refused() -> None:
    with pytest.raises(KeyError, match="unicorn"):
        _texture("unicorn", 0)
