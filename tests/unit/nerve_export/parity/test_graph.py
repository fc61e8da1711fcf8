"""Inner tensors are found by a graph's metadata and given out by a copy, whose weights stay where they are."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.onnx
onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from nerve_export.parity.graph import TAP_PREFIX, inner_taps, tapped_graph  # noqa: E402
from nerve_export.parity.runners import Runner, open_runner  # noqa: E402
from nerve_runtime.bundle.manifest import FileRecord, Manifest, StageRecord, file_sha256, load_manifest  # noqa: E402
from nerve_runtime.bundle.spec import StageSpec, TensorSpec  # noqa: E402
from nerve_runtime.errors import BundleError, CompatibilityError, UsageError  # noqa: E402
from tests.data.fake_bundle import make_fake_bundle  # noqa: E402

WEIGHT = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
TAPS = {"latent": "doubled", "q0": "product"}


def make_graph(path: Path, taps: dict[str, str], *, external: bool) -> None:
    """A graph x (1,8) -> y (1,8): doubled, times a weight, softmax; it says where its inner tensors are."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("MatMul", ["doubled", "weight"], ["product"]),
        helper.make_node("Softmax", ["product"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(WEIGHT, "weight")
    graph = helper.make_graph(nodes, "hand", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"nerve_stage": "walk", **{f"{TAP_PREFIX}{tap}": name for tap, name in taps.items()}})
    data = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0} if external else {}
    onnx.save(model, path, **data)


def hand_made_runner(folder: Path, taps: dict[str, str], *, external: bool) -> Runner:
    """A bundle whose walk is the graph above, opened with our own back end."""
    make_fake_bundle(folder)
    make_graph(folder / "walk.onnx", taps, external=external)
    manifest = load_manifest(folder)
    data = ("walk.onnx.data",) if external else ()
    values = [TensorSpec(name=name, dtype="float32", axes=(1, 8)) for name in "xy"]
    spec = StageSpec(inputs=(values[0],), outputs=(values[1],))
    record = StageRecord(onnx="walk.onnx", external_data=data, spec=spec, gmac=0)
    files = {name: FileRecord(bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
             for name in ("walk.onnx", *data)}  # fmt: skip
    changes = {"stages": {**manifest.stages, "walk": record}, "files": {**manifest.files, **files}, "opset": 20}
    return open_runner("ort", folder, manifest.model_copy(update=changes))


@pytest.mark.parametrize("external", [False, True])
def test_inner_tensors_come_out_beside_an_untouched_graph(external: bool, tmp_path: Path) -> None:
    runner = hand_made_runner(tmp_path / "bundle", TAPS, external=external)
    before = {path: path.read_bytes() for path in runner.bundle.iterdir()}
    x = np.linspace(-1, 1, 8, dtype=np.float32)[None]
    with runner.open_inner("walk") as run:
        assert run is not None
        found = run({"x": x, "something_else": x})
    assert set(found) == set(TAPS)
    np.testing.assert_allclose(found["latent"], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(found["q0"], 2 * x @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert {path: path.read_bytes() for path in runner.bundle.iterdir()} == before


def test_one_value_may_be_two_taps(tmp_path: Path) -> None:
    runner = hand_made_runner(tmp_path / "bundle", {"q0": "product", "k0": "product"}, external=False)
    with runner.open_inner("walk") as run:
        assert run is not None
        found = run({"x": np.ones((1, 8), np.float32)})
    np.testing.assert_array_equal(found["q0"], found["k0"])


def test_a_graph_that_names_no_tensor_has_no_inner_taps(tmp_path: Path) -> None:
    runner = hand_made_runner(tmp_path / "bundle", {}, external=False)
    with runner.open_inner("walk") as run:
        assert run is None


def test_the_metadata_is_read_without_the_weights(tmp_path: Path) -> None:
    make_graph(tmp_path / "walk.onnx", TAPS, external=True)
    (tmp_path / "walk.onnx.data").unlink()
    assert inner_taps(tmp_path / "walk.onnx") == TAPS
    graph, taps = tapped_graph(tmp_path / "walk.onnx")
    assert taps == TAPS
    assert len(graph) < 1000


def test_a_tap_that_no_node_makes_is_refused(tmp_path: Path) -> None:
    make_graph(tmp_path / "walk.onnx", {"latent": "gone"}, external=False)
    with pytest.raises(BundleError, match=r"walk\.onnx lists its tensor 'gone' as latent, but no node makes it"):
        tapped_graph(tmp_path / "walk.onnx")


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    (tmp_path / "walk.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match=r"is not an ONNX graph that can be read"):
        inner_taps(tmp_path / "walk.onnx")


def test_a_changed_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    runner = hand_made_runner(tmp_path / "bundle", TAPS, external=True)
    data = runner.bundle / "walk.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"the file was changed"), runner.open_inner("walk"):
        pass


def test_an_unknown_runner_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    manifest: Manifest = load_manifest(make_fake_bundle(tmp_path / "bundle"))
    with pytest.raises(
        UsageError, match=r"the runner is 'polygraphy:openvino', expected one of auto, ort.*polygraphy:rtx"
    ):
        open_runner("polygraphy:openvino", tmp_path, manifest)


def test_without_polygraphy_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    manifest = load_manifest(make_fake_bundle(tmp_path / "bundle"))
    with pytest.raises(
        CompatibilityError, match=r"polygraphy cannot be imported .*pip install 'nerve-deploy\[parity\]'"
    ):
        open_runner("polygraphy:ort", tmp_path, manifest)
