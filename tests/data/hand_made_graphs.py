"""ONNX graphs made by hand: one doubles its input, one makes planes of a size it is told."""

from pathlib import Path
from typing import Any

import numpy as np

from nerve_runtime.bundle.manifest import FileRecord, Manifest, StageRecord, file_sha256, load_manifest
from nerve_runtime.bundle.spec import Array, StageSpec, TensorSpec


def scalar(value: float) -> Array:
    """A float32 array without axes."""
    return np.array(value, dtype=np.float32)


def save_graph(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 20) -> None:
    """Write one graph as an ONNX file."""
    import onnx

    graph = onnx.helper.make_graph(nodes, "by_hand", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 10
    onnx.save(model, str(path))


def doubling(path: Path, axes: tuple[Any, ...] = ("n", 3), **options: Any) -> None:
    """Write y = x * factor."""
    import onnx

    node = onnx.helper.make_node("Mul", ["x", "factor"], ["y"])
    kind = onnx.TensorProto.FLOAT
    values = {name: onnx.helper.make_tensor_value_info(name, kind, axes) for name in ("x", "y")}
    factor = onnx.helper.make_tensor_value_info("factor", kind, [])
    save_graph(path, [node], [values["x"], factor], [values["y"]], **options)


def planes(path: Path) -> None:
    """Write a plane of zeros whose size is an input."""
    import onnx

    fill = onnx.helper.make_node("ConstantOfShape", ["size_hw"], ["plane"])
    size = onnx.helper.make_tensor_value_info("size_hw", onnx.TensorProto.INT64, [2])
    plane = onnx.helper.make_tensor_value_info("plane", onnx.TensorProto.FLOAT, ["H", "W"])
    save_graph(path, [fill], [size], [plane])


def tensor(name: str, *axes: Any, dtype: Any = "float32") -> TensorSpec:
    """A tensor of a manifest."""
    return TensorSpec(name=name, dtype=dtype, axes=axes)


DOUBLING = StageSpec(inputs=(tensor("x", "n", 3), tensor("factor")), outputs=(tensor("y", "n", 3),))
PLANES = StageSpec(inputs=(tensor("size_hw", 2, dtype="int64"),), outputs=(tensor("plane", "H", "W"),))


def manifest_of(bundle: Path, stage: Any, spec: StageSpec, **record: Any) -> Manifest:
    """The bundle's manifest with one stage that says `spec`, and the files as they are now."""
    manifest = load_manifest(bundle)
    stages = {**manifest.stages, stage: StageRecord(onnx=f"{stage}.onnx", spec=spec, gmac=0, **record)}
    files = {
        path.name: FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in bundle.iterdir()
        if path.name != "manifest.json"
    }
    return manifest.model_copy(update={"stages": stages, "files": files})
