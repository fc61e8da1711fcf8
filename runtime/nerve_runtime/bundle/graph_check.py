"""Checks an ONNX file before any inference library opens it: which operators it has, and which files it points to.

A hash says that a file is the one that was shipped, not that whoever shipped it meant well. So a graph may hold nothing
but what our exporter writes: known operators of the standard domain, no functions and no graphs within nodes, and
weights whose external data are files that the manifest lists. ONNX Runtime 1.23, the oldest that is supported, opens
external data at `../`, at absolute paths and behind links; 1.31 refuses these, but not hard links.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nerve_runtime.bundle.allocation import Allocation, Constant, Node, Values
from nerve_runtime.bundle.manifest import Manifest, StageRecord, verify_bundle
from nerve_runtime.bundle.onnx_fields import ATTRIBUTE, ENTRY, GRAPH, MODEL, NODE, OPSET, TENSOR, Message
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.bundle.wire_format import Field, MalformedError, WireReader
from nerve_runtime.errors import BundleError

# The format that came with opset 23, and the newest that the oldest supported ONNX Runtime, 1.23, reads.
IR_VERSION_LIMIT = 11
STANDARD_DOMAINS = ("", "ai.onnx")  # two spellings of one
RANK_LIMIT = 16
# Bytes of one element by the number of its type in TensorProto.DataType; strings, complex and 4-bit types have no place.
ELEMENT_BYTES: Mapping[int, int] = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
# Letters that mean the same on every system. Among what this shuts out is ONNX Runtime's own "*/_ORT_MEM_ADDR_/*", which
# would make it read its own memory at an address of the file's choice.
PLAIN_PATH = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", re.ASCII)
EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
DATA_EMBEDDED, DATA_EXTERNAL = 0, 1
# Types of numbers that shapes, scales and pads are written in, as `struct` calls them: float32, int32, int64.
NUMBER_FORMATS: Mapping[int, str] = {1: "f", 6: "i", 7: "q"}
INTEGER_FIELDS = (5, 7)  # int32_data and int64_data

# What the exporter writes for all presets at opsets 20 and 23, and arithmetic of the same kind that a newer exporter may
# write instead. Not here, on purpose: control flow (a graph could run for ever), random numbers, strings, sequences,
# ImageDecoder, and everything of another domain.
OPERATOR_WORDS = """
Abs Add And ArgMax ArgMin Attention AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant
ConstantOfShape Conv Cos CumSum Div Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu
Gemm GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity
InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool
Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow RMSNormalization Range Reciprocal ReduceL1 ReduceL2
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
RotaryEmbedding Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus Split Sqrt
Squeeze Sub Sum Swish Tanh Tile TopK Transpose Trilu Unsqueeze Where
"""
ALLOWED_OPERATORS = frozenset(OPERATOR_WORDS.split())


class BundleGraphs:
    """Hands out the stages of a bundle, none before the whole bundle was verified.

    Args:
        folder: the bundle's folder.
        manifest: its manifest; every file but engines is verified against it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._verified = False

    def checked(self, stage: StageName) -> StageRecord:
        """The record of a stage whose graph may be opened.

        Raises:
            BundleError: the bundle has no such stage, a file of it differs from its manifest, or the graph is refused.
        """
        record = self._manifest.stages.get(stage)
        if record is None:
            raise BundleError(f"the bundle has no stage {stage!r}, only {', '.join(self._manifest.stages)}; rebuild it")
        if not self._verified:
            verify_bundle(self._folder, self._manifest, engines=False)
            self._verified = True
        check_graph(self._folder, record.onnx, opset=self._manifest.opset, external_data=record.external_data)
        return record


def check_graph(folder: Path, onnx: str, *, opset: int, external_data: Collection[str] = ()) -> None:
    """Refuse a graph that holds anything but what our exporter writes, or points outside the bundle.

    Reads names and numbers only, some hundred kilobytes of a file of gigabytes; weights are skipped by their length.

    Args:
        folder: the bundle's folder.
        onnx: the graph's file, relative to the folder, with forward slashes; its hash should have been verified.
        opset: the one it has to be written in.
        external_data: files that its weights may lie in, relative to the folder.

    Raises:
        BundleError: the file is cut off or no ONNX graph, is of another opset or too new a format, holds an operator
            that is not in `ALLOWED_OPERATORS`, or its external data are not within a listed plain file.
    """
    path = folder / onnx
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            reader = WireReader(stream, size_bytes)
            _GraphCheck(reader, folder, onnx, opset, frozenset(external_data)).check_model()
    except MalformedError as error:
        raise BundleError(
            f"{path.name} is not a whole ONNX graph: {error}; copy the bundle again, or rebuild it"
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}; check its path and rights") from error


@dataclass(frozen=True, slots=True)
class _GraphCheck:
    reader: WireReader
    folder: Path
    onnx: str
    opset: int
    external_data: frozenset[str]

    def check_model(self) -> None:
        found: dict[str, Field] = {}
        opsets = []
        for name, field in self._fields(MODEL, 0, self.reader.size_bytes):
            if name == "opset_import":
                opsets.append(self._opset(field))
            found[name] = field
        if not {"ir_version", "graph"} <= found.keys():
            raise MalformedError("it lacks its version or its graph")
        version = found["ir_version"].value
        if not 0 < version <= IR_VERSION_LIMIT:
            raise self._refusal(f"is of ONNX format (IR) version {version}, expected at most {IR_VERSION_LIMIT}")
        if opsets != [("", self.opset)]:
            got = ", ".join(f"{domain or 'ai.onnx'} {number}" for domain, number in opsets) or "none"
            raise self._refusal(f"is written in opset {got}, expected ai.onnx {self.opset} alone")
        self._check_nodes_and_weights(found["graph"])

    def _opset(self, field: Field) -> tuple[str, int]:
        parts = dict(self._fields(OPSET, field.start, field.end))
        domain = self.reader.text(parts["domain"]) if "domain" in parts else ""
        version = parts["version"].value if "version" in parts else 0
        return "" if domain in STANDARD_DOMAINS else domain, version

    def _check_nodes_and_weights(self, graph: Field) -> None:
        allocation, nodes = Allocation({}), []
        for name, field in self._fields(GRAPH, graph.start, graph.end):
            if name == "node":
                nodes.append(self._checked_node(field))
            elif name == "initializer":
                weights, constant = self._checked_tensor(field, "weights")
                allocation.constants[weights] = constant
        for node in nodes:
            if refusal := allocation.refusal(node):
                raise self._refusal(f"has a node {node.name!r} ({node.operator}) that {refusal}")

    def _checked_node(self, node: Field) -> Node:
        words = {"name": "", "op_type": "", "domain": ""}
        attributes = []
        tensors: dict[str, list[str]] = {"input": [], "output": []}
        for name, field in self._fields(NODE, node.start, node.end):
            if name in words:
                words[name] = self.reader.text(field)
            elif name in tensors:
                tensors[name].append(self.reader.text(field))
            elif name == "attribute":
                attributes.append(field)
        operator = f"{words['domain'] or 'ai.onnx'}::{words['op_type']}"
        if words["domain"] not in STANDARD_DOMAINS or words["op_type"] not in ALLOWED_OPERATORS:
            raise self._refusal(f"has a node {words['name']!r} with operator {operator}, which no graph of ours needs")
        constant: Constant | None = None
        pads: list[int] = []
        for attribute in attributes:
            parts = list(self._fields(ATTRIBUTE, attribute.start, attribute.end))
            is_pads = any(name == "name" and self.reader.text(field) == "pads" for name, field in parts)
            for name, field in parts:
                if name == "t":
                    _, constant = self._checked_tensor(field, f"constant of node {words['name']!r}")
                elif name == "ints" and is_pads:
                    pads += (number - (number >> 63 << 64) for number in self.reader.numbers(field))
        return Node(words["name"], words["op_type"], tensors["input"], tensors["output"], constant, pads)

    def _checked_tensor(self, tensor: Field, role: str) -> tuple[str, Constant]:
        """Name and content of a sound tensor."""
        found: dict[str, Field] = {}
        dims: list[int] = []
        entries: list[Field] = []
        typed_fields: list[Field] = []
        for name, field in self._fields(TENSOR, tensor.start, tensor.end):
            if name == "dims":
                dims.extend(self.reader.numbers(field))
            elif name == "external_data":
                entries.append(field)
            elif name == "typed":
                typed_fields.append(field)
            found[name] = field
        label = f"{role} {self.reader.text(found['name'])!r}" if "name" in found else role
        elements, element_bytes = self._elements(label, dims), self._element_bytes(label, found)
        typed_bytes = sum(field.length_bytes for field in typed_fields)
        location = found["data_location"].value if "data_location" in found else DATA_EMBEDDED
        held = found.keys() & {"raw_data", "typed", "external_data"}
        if location == DATA_EXTERNAL and held == {"external_data"}:
            self._check_external(label, elements * element_bytes, entries)
        elif location != DATA_EMBEDDED or "external_data" in held or len(held) > 1:
            raise self._refusal(f"keeps {label} in more than one place, or in none")
        elif "raw_data" in held and found["raw_data"].length_bytes != elements * element_bytes:
            raw_bytes = found["raw_data"].length_bytes
            raise self._refusal(f"has {label} of {raw_bytes} bytes, its shape needs {elements * element_bytes}")
        elif "raw_data" not in held and elements > typed_bytes:  # each element takes a byte at least
            raise self._refusal(f"has {label} of {elements} elements in {typed_bytes} bytes")
        name = self.reader.text(found["name"]) if "name" in found else ""
        return name, Constant(elements, self._few_numbers(elements, found, typed_fields))

    def _few_numbers(self, elements: int, found: Mapping[str, Field], typed: list[Field]) -> Values | None:
        kind = found["data_type"].value
        if elements > RANK_LIMIT or kind not in NUMBER_FORMATS:
            return None
        if "raw_data" in found:
            return struct.unpack(f"<{elements}{NUMBER_FORMATS[kind]}", self.reader.content(found["raw_data"]))
        if any(field.number not in INTEGER_FIELDS for field in typed):
            return None
        return tuple(value - (value >> 63 << 64) for field in typed for value in self.reader.numbers(field))

    def _elements(self, label: str, dims: list[int]) -> int:
        if len(dims) > RANK_LIMIT or any(size >= 1 << 63 for size in dims):
            raise self._refusal(f"has {label} of shape {tuple(dims[:RANK_LIMIT])}, which no tensor has")
        return math.prod(dims)

    def _element_bytes(self, label: str, found: Mapping[str, Field]) -> int:
        kind = found["data_type"].value if "data_type" in found else 0
        if kind not in ELEMENT_BYTES:
            raise self._refusal(f"has {label} of element type {kind}, expected one of {sorted(ELEMENT_BYTES)}")
        return ELEMENT_BYTES[kind]

    def _check_external(self, label: str, content_bytes: int, entries: list[Field]) -> None:
        words = self._external_words(label, entries)
        location = words.get("location", "")
        beside = (PurePosixPath(self.onnx).parent / location).as_posix()
        if not PLAIN_PATH.fullmatch(location) or beside not in self.external_data:
            raise self._refusal(
                f"keeps {label} in {location!r}, expected a plain name among "
                f"{sorted(self.external_data) or 'none'}, which the manifest lists for it"
            )
        size_bytes = self._plain_file_bytes(label, beside)
        offset = self._number(label, words.get("offset", "0"))
        length = self._number(label, words.get("length", str(max(0, size_bytes - offset))))
        if offset + length > size_bytes or length != content_bytes:
            raise self._refusal(
                f"keeps {label} in bytes {offset} to {offset + length} of {location!r}, which has {size_bytes}; "
                f"its shape needs {content_bytes}"
            )

    def _external_words(self, label: str, entries: list[Field]) -> dict[str, str]:
        words: dict[str, str] = {}
        for entry in entries:
            parts = dict(self._fields(ENTRY, entry.start, entry.end))
            key, value = (self.reader.text(parts[part]) if part in parts else "" for part in ("key", "value"))
            if key in words or key not in EXTERNAL_KEYS:
                raise self._refusal(f"describes the file of {label} with {key!r} twice or without need")
            words[key] = value
        return words

    def _number(self, label: str, digits: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", digits):
            raise self._refusal(f"places {label} at {digits!r}, expected a number of bytes")
        return int(digits)

    def _plain_file_bytes(self, label: str, relative: str) -> int:
        found = os.lstat(self.folder)
        try:
            for part in (*reversed(PurePosixPath(relative).parents[:-1]), PurePosixPath(relative)):
                found = os.lstat(self.folder / part)
                if stat.S_ISLNK(found.st_mode):
                    raise self._refusal(f"keeps {label} in {relative!r}, where {str(part)!r} is a link")
        except OSError as error:
            raise self._refusal(f"keeps {label} in {relative!r}, which cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise self._refusal(f"keeps {label} in {relative!r}, which is no plain file of the bundle's own")
        return found.st_size

    def _fields(self, message: Message, start: int, end: int) -> Iterator[tuple[str, Field]]:
        seen: set[int] = set()
        for field in self.reader.fields(start, end):
            known = message.known.get(field.number)
            if known is None:
                what = message.refused.get(field.number, f"an unknown field {field.number} in {message.name}")
                raise self._refusal(f"holds {what}")
            name, kinds, repeats = known
            if field.kind not in kinds or (field.number in seen and not repeats):
                raise MalformedError(f"field {name!r} of {message.name} at byte {field.start} is twice there or odd")
            seen.add(field.number)
            yield name, field

    def _refusal(self, what: str) -> BundleError:
        return BundleError(
            f"{self.onnx} {what}; it is not opened: rebuild the bundle with this version of nerve-build, or get it anew"
        )
