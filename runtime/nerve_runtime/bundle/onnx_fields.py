"""The fields of ONNX's messages: those that our graphs have, and those that are refused with a reason.

Source: onnx.proto3 of ONNX 1.18. A field that occurs twice where one is meant would be merged by protobuf: refused.
"""

from collections.abc import Mapping
from typing import NamedTuple

from nerve_runtime.bundle.wire_format import BYTES, FIXED32, FIXED64, VARINT

_KINDS = {"b": BYTES, "v": VARINT, "4": FIXED32, "8": FIXED64}


class Message(NamedTuple):
    """A message's fields that may occur: by number a name, the kinds it may have, and whether it may occur twice."""

    name: str
    known: Mapping[int, tuple[str, tuple[int, ...], bool]]
    refused: Mapping[int, str]


def _message(name: str, fields: str, refused: Mapping[int, str]) -> Message:
    """A message from words `NUMBER:NAME:KINDS`, the kinds as in `_KINDS`; `*` at the end lets a field repeat."""
    known = {}
    for word in fields.split():
        number, field, kinds = word.split(":")
        known[int(number)] = (field, tuple(_KINDS[kind] for kind in kinds.rstrip("*")), kinds.endswith("*"))
    return Message(name, known, refused)


MODEL = _message(
    "ModelProto",
    "1:ir_version:v 2:producer_name:b 3:producer_version:b 4:domain:b 5:model_version:v 6:doc_string:b 7:graph:b "
    "8:opset_import:b* 14:metadata_props:b*",
    {20: "training information", 25: "functions of its own", 26: "a configuration of several devices"},
)
OPSET = _message("OperatorSetIdProto", "1:domain:b 2:version:v", {})
GRAPH = _message(
    "GraphProto",
    "1:node:b* 2:name:b 5:initializer:b* 10:doc_string:b 11:input:b* 12:output:b* 13:value_info:b* 16:metadata_props:b*",
    {14: "quantization annotations", 15: "sparse weights"},
)
NODE = _message(
    "NodeProto",
    "1:input:b* 2:output:b* 3:name:b 4:op_type:b 5:attribute:b* 6:doc_string:b 7:domain:b 9:metadata_props:b*",
    {8: "an overload", 10: "a configuration of several devices"},
)
ATTRIBUTE = _message(
    "AttributeProto",
    "1:name:b 2:f:4 3:i:v 4:s:b 5:t:b 7:floats:4b* 8:ints:vb* 9:strings:b* 13:doc_string:b 20:type:v",
    {
        **{6: "a graph within a node", 10: "several tensors in one attribute", 11: "graphs within a node"},
        **{14: "a type in an attribute", 15: "types in an attribute", 21: "an attribute of a function"},
        **{22: "a sparse tensor", 23: "sparse tensors"},
    },
)
TENSOR = _message(
    "TensorProto",
    "1:dims:vb* 2:data_type:v 4:typed:4b* 5:typed:vb* 7:typed:vb* 8:name:b 9:raw_data:b 10:typed:8b* 11:typed:vb* "
    "12:doc_string:b 13:external_data:b* 14:data_location:v 16:metadata_props:b*",
    {3: "a tensor in segments", 6: "a tensor of strings"},
)
ENTRY = _message("StringStringEntryProto", "1:key:b 2:value:b", {})
