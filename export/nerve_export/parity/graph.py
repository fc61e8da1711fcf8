"""Tensors inside a graph: the exporter records their names, and a copy of the graph has them as outputs.

Each graph's metadata maps tensors of the method to value names:

    nerve_tap:latent -> "mul_7"        nerve_tap:q0 -> "val_1204"        nerve_tap:features -> "view_31"
"""

from pathlib import Path
from typing import TYPE_CHECKING

from nerve_runtime.errors import BundleError

if TYPE_CHECKING:
    import onnx

TAP_PREFIX = "nerve_tap:"


def inner_taps(path: Path) -> dict[str, str]:
    """Value name by tap name, from the graph's metadata; empty where it has none.

    Reads the graph without its external data.

    Raises:
        BundleError: the file is no ONNX graph.
    """
    return _taps(_loaded(path))


def tapped_graph(path: Path) -> tuple[bytes, dict[str, str]]:
    """A copy of a graph whose only outputs are its inner taps, and the value name of each tap.

    External data stays where it is, beside `path`: open the bytes with ONNX Runtime's option
    `session.model_external_initializers_file_folder_path`.

    Raises:
        BundleError: the file is no ONNX graph, or names a tensor that it does not have.
    """
    import onnx

    model = _loaded(path)
    taps = _taps(model)
    made = {name for node in model.graph.node for name in node.output} | {value.name for value in model.graph.input}
    for tap, value in taps.items():
        if value not in made:
            raise BundleError(
                f"{path.name} lists its tensor {value!r} as {tap}, but no node makes it; build the bundle again"
            )
    del model.graph.output[:]
    # Without a type: ONNX Runtime infers it, and a type that is wrong by a symbol would be refused.
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in dict.fromkeys(taps.values()))
    return model.SerializeToString(), taps


def _loaded(path: Path) -> "onnx.ModelProto":
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes with onnx

    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise BundleError(f"{path} is not an ONNX graph that can be read ({error}); build the bundle again") from error


def _taps(model: "onnx.ModelProto") -> dict[str, str]:
    return {
        entry.key.removeprefix(TAP_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(TAP_PREFIX)
    }
