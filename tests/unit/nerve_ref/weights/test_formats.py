"""No pickle is ever opened as weights or configuration (row 42), but one whose hash is pinned may be converted."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from nerve_ref.weights.digests import RememberedDigests
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.files import WeightChoice
from nerve_ref.weights.formats import (
    check_config,
    check_safetensors,
    convert_pickle,
    is_conversion_of,
    safetensors_name,
)
from tests.unit.nerve_ref.fake_hub import COMMIT, make_pipeline, make_role, mirror, sha256, write_lock_json
from tests.unit.nerve_ref.weight_world import SD, World


class Payload:
    """Touches a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def pickled(marker: Path, protocol: int) -> bytes:
    return pickle.dumps(Payload(marker), protocol=protocol)


def torch_pickle(path: Path, marker: Path) -> bytes:
    torch.save({"x": Payload(marker)}, path)
    return path.read_bytes()


def numpy_objects(path: Path, marker: Path) -> bytes:
    np.save(path, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return path.with_suffix(".npy").read_bytes()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def payloads(tmp_path: Path, marker: Path) -> dict[str, bytes]:
    """Files that would touch the marker if they were opened the careless way."""
    return {
        **{f"pickle {protocol}": pickled(marker, protocol) for protocol in range(6)},
        "torch": torch_pickle(tmp_path / "made.pt", marker),
        "numpy": numpy_objects(tmp_path / "made", marker),
        "yaml": f"!!python/object/apply:os.system ['touch {marker}']\n".encode(),
        "yaml document": f"--- !!python/object/apply:os.system ['touch {marker}']\n".encode(),
    }


def test_the_payload_works(marker: Path, payloads: dict[str, bytes]) -> None:
    pickle.loads(payloads["pickle 4"])
    assert marker.exists()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz", ".yaml", ".H5"])
def test_row_42_such_files_are_refused_by_name(
    tmp_path: Path, marker: Path, payloads: dict[str, bytes], suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(payloads["torch"])
    for check in (check_safetensors, check_config):
        with pytest.raises(WeightError, match=rf"model{suffix} is refused: .* can run code when it is opened"):
            check(path)
    assert not marker.exists()


def test_row_42_such_files_are_refused_by_content_whatever_they_are_called(
    tmp_path: Path, marker: Path, payloads: dict[str, bytes]
) -> None:
    for content in payloads.values():
        for name, check in (("model.safetensors", check_safetensors), ("config.json", check_config)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(WeightError, match=r"refused|no sound safetensors|no JSON"):
                check(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle 4", "it is a pickle"),
        ("torch", "a zip archive, as PyTorch"),
        ("numpy", "numpy array"),
        ("yaml", "YAML"),
    ],
)
def test_row_42_the_refusal_says_what_the_file_really_is(
    tmp_path: Path, payloads: dict[str, bytes], kind: str, message: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(payloads[kind])
    with pytest.raises(WeightError, match=rf"model\.safetensors is refused: whatever its name says, .*{message}"):
        check_safetensors(path)


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for padding in range(2000):
        save_file({"x": np.zeros(1, np.float32)}, path, {"padding": "p" * padding})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert check_safetensors(path) == ("x",)


def test_row_42_a_local_folder_with_only_pickles_says_how_to_convert(tmp_path: Path, marker: Path) -> None:
    world = World(tmp_path / "world")
    pipeline = make_pipeline(tmp_path / "sd")
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"x": Payload(marker)}, pipeline / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        WeightError, match=r"holds the unet only as diffusion_pytorch_model\.bin, which is refused: .*save_file"
    ):
        world.resolve(SD, WeightChoice(sd=pipeline))
    for path in (pipeline / "unet" / "diffusion_pytorch_model.bin", tmp_path / "x.ckpt"):
        path.write_bytes((pipeline / "unet" / "diffusion_pytorch_model.bin").read_bytes())
        with pytest.raises(WeightError, match=r"is refused: .* can run code"):
            world.resolve(SD, WeightChoice(sd=path))
    assert not marker.exists()


def test_a_config_must_be_a_json_object_of_sound_depth(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, message in (("[1]", "holds a list"), ("{", "is no JSON"), ("[" * 300_000, "is no JSON")):
        path.write_text(content)
        with pytest.raises(WeightError, match=message):
            check_config(path)


def test_devices_and_missing_files_are_refused_without_waiting(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path / "nowhere.safetensors"):
        with pytest.raises(WeightError, match=r"expected a \.safetensors|there is no file"):
            check_safetensors(path)


def clip_pickle(world: World, content: object) -> None:
    """Let the hub serve CLIP as a pickle and nothing else, its hash pinned."""
    for owner in ("first", "second"):
        folder = world.folder(owner, "clip-vit-base-patch16")
        (folder / "model.safetensors").unlink(missing_ok=True)
        torch.save(content, folder / "pytorch_model.bin")
    lock = json.loads(world.folders.packaged_lock.read_text())["networks"]
    folder = world.folder("first", "clip-vit-base-patch16")
    lock["clip-vit-base-patch16"]["mirrors"] = [mirror("first/clip-vit-base-patch16", COMMIT, folder)]
    write_lock_json(world.folders.packaged_lock, **lock)


def test_a_mirror_with_only_a_pickle_is_converted_once_and_named_as_what_was_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    weight = torch.arange(4.0)
    clip_pickle(world, {"a": weight, "tied": weight, "b": torch.ones(2, dtype=torch.float16)})
    resolved = world.resolve()
    with safe_open(resolved.files["clip"] / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        torch.testing.assert_close(opened.get_tensor("a"), weight)
        torch.testing.assert_close(opened.get_tensor("tied"), weight)
        assert opened.get_tensor("b").dtype == torch.float16
    record = next(record for record in resolved.records if record.role == "clip")
    assert record.source.endswith(f"@{COMMIT}:pytorch_model.bin")
    assert record.sha256 == sha256(world.folder("first", "clip-vit-base-patch16") / "pytorch_model.bin")
    assert not list(world.folders.downloads.rglob("*.bin"))
    world.hub.asked.clear()
    assert world.resolve() == resolved
    assert world.hub.asked == []


def test_a_conversion_that_was_damaged_since_is_made_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    clip_pickle(world, {"a": torch.arange(4.0)})
    converted = world.resolve().files["clip"] / "model.safetensors"
    before = converted.read_bytes()
    converted.write_bytes(before[:-1] + b"\x01")
    world.resolve()
    assert converted.read_bytes() == before


def test_row_42_even_a_pinned_pickle_with_code_is_refused(tmp_path: Path, marker: Path) -> None:
    world = World(tmp_path / "world")
    clip_pickle(world, {"a": Payload(marker)})
    with pytest.raises(WeightError, match=r"pytorch_model\.bin is refused: it holds more than tensors, or is damaged"):
        world.resolve()
    assert not marker.exists()
    assert not list(world.folders.downloads.rglob("model.safetensors"))


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1.0}, {1: torch.ones(1)}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightError, match="expected named tensors and nothing else"):
        convert_pickle(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors", "0" * 64)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("nothing", "here")
    with pytest.raises(WeightError, match=r"pytorch_model\.bin is refused"):
        convert_pickle(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors", "0" * 64)


def test_a_conversion_is_only_that_of_the_same_pickle(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    convert_pickle(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors", "1" * 64)
    digests = RememberedDigests(tmp_path / "digests.json")
    assert is_conversion_of(tmp_path / "model.safetensors", "1" * 64, digests)
    assert not is_conversion_of(tmp_path / "model.safetensors", "2" * 64, digests)


def test_converted_files_have_the_names_that_libraries_look_for() -> None:
    assert safetensors_name("pytorch_model.bin") == "model.safetensors"
    assert safetensors_name("unet/diffusion_pytorch_model.bin") == "unet/diffusion_pytorch_model.safetensors"


def test_a_safetensors_file_must_be_called_so(tmp_path: Path) -> None:
    path = make_role(tmp_path, "clip") / "model.safetensors"
    path.rename(tmp_path / "weights")
    with pytest.raises(WeightError, match=r"named without a suffix, expected a \.safetensors"):
        check_safetensors(tmp_path / "weights")
