"""What a hostile graph can say, and that it is refused before ONNX Runtime sees it (rows 4 and 6 of the fault table)."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerve_runtime.bundle.graph_check import ALLOWED_OPERATORS, IR_VERSION_LIMIT, check_graph
from nerve_runtime.bundle.wire_format import FIELDS_LIMIT
from nerve_runtime.errors import BundleError

onnx = pytest.importorskip("onnx", reason="onnx is not installed: it writes the graphs of these tests")
protobuf = pytest.importorskip("google.protobuf.message", reason="protobuf is not installed: onnx needs it")
pytestmark = pytest.mark.onnx

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def external(name: str = "w", **where: str) -> Any:
    """A float32 (2, 3) tensor that says it lies in another file."""
    tensor = onnx.numpy_helper.from_array(WEIGHTS, name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_of(weights: Any = None, nodes: Any = None, opset: int = 20, ir_version: int = 10) -> Any:
    """y = x + w, unless told otherwise."""
    weights = onnx.numpy_helper.from_array(WEIGHTS, "w") if weights is None else weights
    nodes = [onnx.helper.make_node("Add", ["x", "w"], ["y"], name="first")] if nodes is None else nodes
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "by_hand", values[:1], values[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    return model


def save(folder: Path, model: Any) -> Path:
    (folder / "g.onnx").write_bytes(model.SerializeToString())
    return folder


def check(folder: Path, *listed: str, opset: int = 20) -> None:
    check_graph(folder, "g.onnx", opset=opset, external_data=listed)


def accepts(content: bytes, folder: Path) -> bool:
    (folder / "g.onnx").write_bytes(content)
    try:
        check(folder)
    except BundleError:
        return False
    return True


def test_a_graph_as_we_write_it_passes(tmp_path: Path) -> None:
    assert accepts(model_of().SerializeToString(), tmp_path)


def test_row_4_weights_within_a_listed_file_pass(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(bytes(8) + WEIGHTS.tobytes())
    check(save(tmp_path, model_of(external(location="w.data", offset="8", length="24"))), "w.data")
    check(save(tmp_path, model_of(external(location="w.data", offset="8"))), "w.data")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.data").write_bytes(WEIGHTS.tobytes())
    save(tmp_path / "deep", model_of(external(location="w.data")))
    check_graph(tmp_path, "deep/g.onnx", opset=20, external_data=["deep/w.data"])
    assert (tmp_path / "w.data").stat().st_size == 32


@pytest.mark.parametrize(
    "location",
    ["../w.data", "/etc/passwd", "a\\w.data", "C:w.data", "./w.data", "a//w.data", "", ".hidden", "other.data",
     "*/_ORT_MEM_ADDR_/*", "a/../../w.data", "w.data\n"],
)  # fmt: skip
def test_row_4_a_path_that_is_no_listed_plain_name_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "other.data").write_bytes(WEIGHTS.tobytes())
    save(tmp_path, model_of(external("mean", location=location)))
    listed = {"w.data", location} - {"other.data"}  # even where a hostile manifest lists it
    with pytest.raises(
        BundleError, match=r"g\.onnx keeps weights 'mean' in .*, expected a plain name among"
    ) as refused:
        check(tmp_path, *listed)
    assert repr(location) in str(refused.value)


def _directory(path: Path, elsewhere: Path) -> None:
    path.mkdir()


def _nothing(path: Path, elsewhere: Path) -> None:
    return


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path, elsewhere: path.symlink_to(elsewhere), "where 'w.data' is a link"),
        (lambda path, elsewhere: path.symlink_to("/dev/zero"), "where 'w.data' is a link"),
        (lambda path, elsewhere: os.link(elsewhere, path), "which is no plain file of the bundle's own"),
        (lambda path, elsewhere: os.mkfifo(path), "which is no plain file of the bundle's own"),
        (_directory, "which is no plain file of the bundle's own"),
        (_nothing, "which cannot be read: No such file"),
    ],
    ids=["symlink", "device", "hard link", "fifo", "directory", "missing"],
)
def test_row_4_a_file_that_is_no_plain_file_is_refused_without_being_opened(
    make: Callable[[Path, Path], None], said: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(WEIGHTS.tobytes())
    make(tmp_path / "w.data", elsewhere)
    save(tmp_path, model_of(external("mean", location="w.data")))
    with pytest.raises(BundleError, match=rf"keeps weights 'mean' in 'w\.data', {said}"):
        check(tmp_path, "w.data")


def test_row_4_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.data").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "deep").symlink_to("real")
    save(tmp_path, model_of(external(location="deep/w.data")))
    with pytest.raises(BundleError, match=r"in 'deep/w\.data', where 'deep' is a link"):
        check(tmp_path, "deep/w.data")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"offset": "1"}, "in bytes 1 to 24 of 'w.data', which has 24; its shape needs 24"),
        ({"offset": "8", "length": "24"}, "in bytes 8 to 32 of 'w.data', which has 24"),
        ({"length": "23"}, "in bytes 0 to 23 .*its shape needs 24"),
        ({"offset": "-8"}, "at '-8', expected a number of bytes"),
        ({"length": "1e3"}, "at '1e3', expected a number of bytes"),
        ({"offset": "9" * 30}, "expected a number of bytes"),
        ({"basepath": "up"}, "with 'basepath' twice or without need"),
    ],
)
def test_row_4_a_part_outside_the_file_is_refused(where: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    save(tmp_path, model_of(external("mean", location="w.data", **where)))
    with pytest.raises(BundleError, match=rf"weights 'mean' .*{said}"):
        check(tmp_path, "w.data")


def test_row_4_a_location_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    tensor = external(location="w.data")
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(BundleError, match="'location' twice or without need"):
        check(save(tmp_path, model_of(tensor)), "w.data")


def test_row_4_a_constant_may_not_point_elsewhere_either(tmp_path: Path) -> None:
    constant = onnx.helper.make_node("Constant", [], ["y"], name="second", value=external(location="../w.data"))
    with pytest.raises(BundleError, match=r"keeps constant of node 'second' 'w' in '\.\./w\.data'"):
        check(save(tmp_path, model_of(nodes=[constant])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor.dims.append(2), r"has weights 'w' of 24 bytes, its shape needs 48"),
        (lambda tensor: tensor.dims.append(-1), "has weights 'w' of shape .*, which no tensor has"),
        (lambda tensor: tensor.dims.extend([1] * 20), "which no tensor has"),
        (lambda tensor: setattr(tensor, "data_type", 8), "has weights 'w' of element type 8, expected one of"),
        (lambda tensor: setattr(tensor, "data_location", 1), "keeps weights 'w' in more than one place, or in none"),
        (lambda tensor: tensor.external_data.add(key="location", value="w"), "in more than one place, or in none"),
        (lambda tensor: tensor.ClearField("raw_data"), "has weights 'w' of 6 elements in 0 bytes"),
        (lambda tensor: tensor.string_data.append(b"text"), "holds a tensor of strings"),
    ],
)
def test_weights_that_are_not_what_their_shape_says_are_refused(
    change: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    tensor = onnx.numpy_helper.from_array(WEIGHTS, "w")
    change(tensor)
    with pytest.raises(BundleError, match=said):
        check(save(tmp_path, model_of(tensor)))


def test_weights_written_number_by_number_pass(tmp_path: Path) -> None:
    check(save(tmp_path, model_of(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 3], WEIGHTS.ravel()))))
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.INT64, [0], [])
    assert accepts(model_of(tensor).SerializeToString(), tmp_path)


@pytest.mark.parametrize(
    ("operator", "domain", "named"),
    [
        ("Loop", "", "ai.onnx::Loop"),
        ("ImageDecoder", "", "ai.onnx::ImageDecoder"),
        ("RandomNormal", "", "ai.onnx::RandomNormal"),
        ("Add", "com.example", "com.example::Add"),
        ("FusedMatMul", "com.microsoft", "com.microsoft::FusedMatMul"),
        ("add", "", "ai.onnx::add"),
        ("", "", "ai.onnx::"),
    ],
)
def test_row_6_an_operator_that_we_never_write_is_refused_by_node(
    operator: str, domain: str, named: str, tmp_path: Path
) -> None:
    node = onnx.helper.make_node(operator, ["x", "w"], ["y"], name="third", domain=domain)
    with pytest.raises(BundleError, match=f"has a node 'third' with operator {named}, which no graph of ours needs"):
        check(save(tmp_path, model_of(nodes=[node])))


def test_row_6_graphs_within_nodes_are_refused_whatever_the_operator(tmp_path: Path) -> None:
    inner = model_of().graph
    branch = onnx.helper.make_node("If", ["x"], ["y"], name="fork", then_branch=inner, else_branch=inner)
    with pytest.raises(BundleError, match=r"has a node 'fork' with operator ai\.onnx::If"):
        check(save(tmp_path, model_of(nodes=[branch])))
    hidden = onnx.helper.make_node("Add", ["x", "w"], ["y"], name="fork", body=inner)
    with pytest.raises(BundleError, match="holds a graph within a node"):
        check(save(tmp_path, model_of(nodes=[hidden])))


def test_row_6_functions_sparse_weights_and_training_are_refused(tmp_path: Path) -> None:
    with_function, with_training, sparse = model_of(), model_of(), model_of()
    with_function.functions.add(name="Add", domain="")
    with_training.training_info.add()
    sparse.graph.sparse_initializer.add()
    for model, what in (
        (with_function, "functions of its own"),
        (with_training, "training information"),
        (sparse, "sparse weights"),
    ):
        with pytest.raises(BundleError, match=rf"g\.onnx holds {what}; it is not opened"):
            check(save(tmp_path, model))


@pytest.mark.parametrize(("written", "expected"), [(23, 20), (20, 23), (24, 23), (90, 23)])
def test_row_6_another_opset_than_the_manifests_is_refused(written: int, expected: int, tmp_path: Path) -> None:
    save(tmp_path, model_of(opset=written))
    with pytest.raises(BundleError, match=f"is written in opset ai.onnx {written}, expected ai.onnx {expected} alone"):
        check(tmp_path, opset=expected)


def test_row_6_a_further_opset_or_none_is_refused(tmp_path: Path) -> None:
    two, none = model_of(), model_of()
    two.opset_import.add(domain="com.example", version=1)
    del none.opset_import[:]
    with pytest.raises(BundleError, match=r"in opset ai\.onnx 20, com\.example 1, expected ai\.onnx 20 alone"):
        check(save(tmp_path, two))
    with pytest.raises(BundleError, match="in opset none, expected"):
        check(save(tmp_path, none))


@pytest.mark.parametrize("version", [0, IR_VERSION_LIMIT + 1, -1])
def test_row_6_a_newer_format_is_refused(version: int, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is of ONNX format \(IR\) version \d+, expected at most 11"):
        check(save(tmp_path, model_of(ir_version=version)))


def test_a_graph_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = model_of().SerializeToString()
    # Cut between two fields the rest may still be a model; then it lacks its opset, its last field.
    assert [length for length in range(len(whole)) if accepts(whole[:length], tmp_path)] == []


def test_a_graph_that_is_there_twice_is_refused_where_protobuf_would_merge_the_two(tmp_path: Path) -> None:
    content = model_of().SerializeToString()
    merged = content + onnx.ModelProto(graph=onnx.GraphProto(name="hidden")).SerializeToString()
    assert onnx.ModelProto.FromString(merged).graph.name == "hidden"
    assert accepts(content, tmp_path)
    assert not accepts(merged, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text, no graph",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x08" + b"\xff" * 30,
        b"\x00\x00",
    ],
)
def test_bytes_that_are_no_protobuf_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"g\.onnx is not a whole ONNX graph: .*; copy the bundle again"):
        check(tmp_path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"g\.onnx cannot be read: No such file"):
        check(tmp_path)


def _length(count: int) -> bytes:
    """A protobuf length, always ten bytes long so that offsets are easy."""
    return bytes(0x80 | count >> 7 * index & 0x7F for index in range(9)) + bytes([count >> 63])


def _read_bytes() -> int:
    words = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(words["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="no /proc/self/io: bytes read cannot be counted")
def test_two_gigabytes_of_weights_are_skipped_not_read(tmp_path: Path) -> None:
    size = 2**31
    head = b"\x08" + _length(size) + b"\x10\x02" + b"\x4a" + _length(size)  # dims, uint8, raw_data
    tensor = b"\x2a" + _length(len(head) + size) + head
    model = model_of()
    start = model.SerializeToString()[: -len(b"\x42\x04\x0a\x00\x10\x14")]
    opset = b"\x42\x04\x0a\x00\x10\x14"
    assert model.SerializeToString().endswith(opset)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    content = start[:2] + opset + b"\x3a" + _length(len(graph) + len(tensor) + size) + graph + tensor
    with (tmp_path / "g.onnx").open("wb") as stream:
        stream.write(content)
        stream.truncate(len(content) + size)  # a hole: no disk is used
    before, started_s = _read_bytes(), time.process_time()
    check(tmp_path)
    assert time.process_time() - started_s < 1
    assert _read_bytes() - before < 1_000_000
    with (tmp_path / "g.onnx").open("r+b") as stream:
        stream.truncate(len(content) + size - 1)
    with pytest.raises(BundleError, match="bytes should follow"):
        check(tmp_path)


def test_a_file_of_nothing_but_empty_fields_is_given_up_soon(tmp_path: Path) -> None:
    with (tmp_path / "g.onnx").open("wb") as stream:
        stream.write(b"\x72\x00" * (FIELDS_LIMIT + 1))  # metadata_props
        stream.truncate(2**31)
    started_s = time.process_time()
    with pytest.raises(BundleError, match=f"it has more than {FIELDS_LIMIT} fields"):
        check(tmp_path)
    # 3 s of this processor's time, three times as much under coverage; all 2 GiB of such fields would take an hour.
    assert time.process_time() - started_s < 30


@settings(max_examples=200)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused_and_nothing_else(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert not accepts(content, tmp_path_factory.getbasetemp())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A small model with some bytes changed, removed, put in or copied from elsewhere in it."""
    content = bytearray(model_of(external(location="w.data")).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        at, count = draw(st.integers(0, len(content))), draw(st.integers(0, 6))
        source = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.binary(max_size=6), st.just(bytes(content[source : source + 12]))))
        content[at : at + count] = new
    return bytes(content)


@settings(max_examples=400)
@given(content=mutated())
def test_what_passes_holds_in_the_eyes_of_protobuf_too_nothing_that_is_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "w.data").write_bytes(WEIGHTS.tobytes())
    (folder / "g.onnx").write_bytes(content)
    try:
        check(folder, "w.data")
    except BundleError:
        return
    try:
        model = onnx.ModelProto.FromString(content)
    except protobuf.DecodeError:  # in a part that we skip, such as the type of an input
        return
    assert all(node.domain in ("", "ai.onnx") and node.op_type in ALLOWED_OPERATORS for node in model.graph.node)
    assert [(entry.domain, entry.version) for entry in model.opset_import] in ([("", 20)], [("ai.onnx", 20)])
    assert (len(model.functions), len(model.training_info)) == (0, 0)
    for tensor in model.graph.initializer:
        places = {entry.key: entry.value for entry in tensor.external_data}
        assert places.get("location", "w.data") == "w.data"
        assert (tensor.data_location == onnx.TensorProto.EXTERNAL) == bool(places)
    assert not any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)
