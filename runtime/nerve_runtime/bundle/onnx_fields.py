"""The fields of ONNX's messages: those that our graphs have, and those that are refused with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from nerve_runtime.bundle.wire_format import BYTES, FIXED32, FIXED64, VARINT


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fields that may occur: by number a name, the kinds it may have, and whether it may occur twice."""

    name: str
    known: Mapping[int, tuple[str, tuple[int, ...], bool]]
    refused: Mapping[int, str]


def _one(name: str, *kinds: int) -> tuple[str, tuple[int, ...], bool]:
    return name, kinds, False


def _many(name: str, *kinds: int) -> tuple[str, tuple[int, ...], bool]:
    return name, kinds, True


# Source: onnx.proto3 of ONNX 1.18. A field that occurs twice where one is meant would be merged by protobuf: refused.
MODEL = Message(
    "ModelProto",
    {
        1: _one("ir_version", VARINT),
        2: _one("producer_name", BYTES),
        3: _one("producer_version", BYTES),
        4: _one("domain", BYTES),
        5: _one("model_version", VARINT),
        6: _one("doc_string", BYTES),
        7: _one("graph", BYTES),
        8: _many("opset_import", BYTES),
        14: _many("metadata_props", BYTES),
    },
    {20: "training information", 25: "functions of its own", 26: "a configuration of several devices"},
)
OPSET = Message("OperatorSetIdProto", {1: _one("domain", BYTES), 2: _one("version", VARINT)}, {})
GRAPH = Message(
    "GraphProto",
    {
        1: _many("node", BYTES),
        2: _one("name", BYTES),
        5: _many("initializer", BYTES),
        10: _one("doc_string", BYTES),
        11: _many("input", BYTES),
        12: _many("output", BYTES),
        13: _many("value_info", BYTES),
        16: _many("metadata_props", BYTES),
    },
    {14: "quantization annotations", 15: "sparse weights"},
)
NODE = Message(
    "NodeProto",
    {
        1: _many("input", BYTES),
        2: _many("output", BYTES),
        3: _one("name", BYTES),
        4: _one("op_type", BYTES),
        5: _many("attribute", BYTES),
        6: _one("doc_string", BYTES),
        7: _one("domain", BYTES),
        9: _many("metadata_props", BYTES),
    },
    {8: "an overload", 10: "a configuration of several devices"},
)
ATTRIBUTE = Message(
    "AttributeProto",
    {
        1: _one("name", BYTES),
        2: _one("f", FIXED32),
        3: _one("i", VARINT),
        4: _one("s", BYTES),
        5: _one("t", BYTES),
        7: _many("floats", FIXED32, BYTES),
        8: _many("ints", VARINT, BYTES),
        9: _many("strings", BYTES),
        13: _one("doc_string", BYTES),
        20: _one("type", VARINT),
    },
    {
        6: "a graph within a node",
        10: "several tensors in one attribute",
        11: "graphs within a node",
        14: "a type in an attribute",
        15: "types in an attribute",
        21: "an attribute of a function",
        22: "a sparse tensor",
        23: "sparse tensors",
    },
)
TENSOR = Message(
    "TensorProto",
    {
        1: _many("dims", VARINT, BYTES),
        2: _one("data_type", VARINT),
        4: _many("typed", FIXED32, BYTES),
        5: _many("typed", VARINT, BYTES),
        7: _many("typed", VARINT, BYTES),
        8: _one("name", BYTES),
        9: _one("raw_data", BYTES),
        10: _many("typed", FIXED64, BYTES),
        11: _many("typed", VARINT, BYTES),
        12: _one("doc_string", BYTES),
        13: _many("external_data", BYTES),
        14: _one("data_location", VARINT),
        16: _many("metadata_props", BYTES),
    },
    {3: "a tensor in segments", 6: "a tensor of strings"},
)
ENTRY = Message("StringStringEntryProto", {1: _one("key", BYTES), 2: _one("value", BYTES)}, {})
