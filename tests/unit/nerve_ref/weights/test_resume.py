"""Downloads of gigabytes: gone on with, the disk compared first, a wrong byte fetched anew."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from nerve_ref.weights.download import unfinished_path
from nerve_ref.weights.errors import StorageError, WeightError
from nerve_ref.weights.files import WeightChoice, hub_networks, resolve_weights
from tests.unit.nerve_ref.weight_world import DINO, SD, World

Usage = namedtuple("Usage", "total used free")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def begun(world: World, content: bytes) -> Path:
    """Leave what an interrupted download of the UNet leaves."""
    unfinished = unfinished_path(world.downloaded("stable-diffusion-2-1-base", UNET))
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(content)
    return unfinished


def unet_of(world: World) -> bytes:
    return (world.folder("first", "stable-diffusion-2-1-base") / UNET).read_bytes()


def test_row_60_what_an_interrupted_download_left_is_gone_on_with(world: World) -> None:
    unfinished = begun(world, unet_of(world)[:50])
    resolved = world.resolve()
    assert (resolved.files["unet"] / Path(UNET).name).read_bytes() == unet_of(world)
    assert world.hub.began_at[files_asked(world).index(UNET)] == 50
    assert not unfinished.exists()
    ((total, here),) = world.hub.expected
    assert here == 50 < total


def test_row_62_a_beginning_of_other_bytes_is_thrown_away_and_the_file_fetched_anew(world: World) -> None:
    begun(world, b"\xff" * 50)
    resolved = world.resolve()
    assert (resolved.files["unet"] / Path(UNET).name).read_bytes() == unet_of(world)
    assert any("is not the file that is pinned" in line and "once more" in line for line in world.progress_lines)
    assert world.hub.asked.count(UNET) == 2


def test_a_beginning_that_is_longer_than_the_file_is_thrown_away(world: World) -> None:
    begun(world, b"\xff" * 100_000)
    world.resolve()
    assert world.hub.began_at[files_asked(world).index(UNET)] == 0


def test_row_60_an_interrupted_conversion_fetches_nothing_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.folder("first", "clip-vit-base-patch16")
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(3)}, folder / "pytorch_model.bin")
    world.lock(owners=("first",))
    monkeypatch.setattr("nerve_ref.weights.download.convert_pickle", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.resolve(DINO)
    monkeypatch.undo()
    world.resolve(DINO)
    begins = [at for path, at in zip(files_asked(world), world.hub.began_at, strict=True) if path.endswith(".bin")]
    assert begins == [0, (folder / "pytorch_model.bin").stat().st_size]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def files_asked(world: World) -> list[str]:
    return [asked for asked in world.hub.asked if asked != "files"]


def test_row_63_the_disk_is_compared_with_all_networks_before_the_first_byte(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (needed,) = {sum(network.missing_bytes for network in hub_networks(SD, WeightChoice(), folders=world.folders))}
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, needed - 1))
    with pytest.raises(StorageError, match=r"what has to be downloaded needs 0\.00 GB in .*, 0\.00 GB are free; free"):
        world.resolve()
    assert world.hub.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, needed))
    world.resolve()


def test_what_is_here_already_needs_no_more_space(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(network.missing_bytes for network in hub_networks(SD, WeightChoice(), folders=world.folders))
    begun(world, unet_of(world)[:50])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, needed - 50))
    world.resolve()
    assert sum(network.missing_bytes for network in hub_networks(SD, WeightChoice(), folders=world.folders)) == 0


def test_sizes_that_the_lock_leaves_open_are_asked_for(world: World) -> None:
    world.lock(pinned=False)
    world.resolve()
    unet = (world.folder("first", "stable-diffusion-2-1-base") / UNET).stat().st_size
    assert world.hub.sizes[UNET] == unet


def test_a_lock_of_ones_own_takes_the_place_of_the_packaged_one(world: World, tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"cannot read .*mine\.json: No such file"):
        resolve_weights(SD, WeightChoice(lock=tmp_path / "mine.json"), print, hub=None)
    own = WeightChoice(lock=world.folders.packaged_lock, locked=True)
    assert {network.repository.split("/")[0] for network in hub_networks(SD, own)} == {"first"}
