"""A bundle of real graphs of a few nodes each, which opens in milliseconds; its labels mean nothing."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx.parser
from onnx import TensorProto, helper

from nerve_runtime.bundle.spec import StageName, StageSpec, TensorSpec
from tests.data.fake_bundle import (
    CONTEXT_LENGTH,
    GRID_HW,
    HEADS,
    POOLED_KEYS,
    STAGES,
    TEXT_WIDTH,
    TOKENS,
    make_fake_bundle,
    write_manifest,
)

TYPES = {"float32": "float", "uint8": "uint8", "int64": "int64", "bool": "bool"}
WALK = "label_scores = Mul(seed_scores, alpha)"
NEAR = """
    values = Cast<to=1>(frame)
    mean = ReduceMean<keepdims=0>(values)
    local_weights = Mul(near, mean)
"""
READ_OUT = f"""
    best = ArgMax<axis=0, keepdims=0>(label_scores)
    grid = Constant<value_ints=[1, 1, {GRID_HW[0]}, {GRID_HW[1]}]>()
    map = Reshape(best, grid)
    levels = Cast<to=1>(map)
    ones = Constant<value_ints=[1, 1]>()
    sizes = Concat<axis=0>(ones, size_hw)
    resized = Resize<mode="nearest">(levels, , , sizes)
    plane = Reshape(resized, size_hw)
    labels = Cast<to=2>(plane)
    confidence = Sub(labels, labels)
    sum = ReduceSum<keepdims=0>(label_scores)
    odd = IsNaN(sum)
    finite = Not(odd)
"""
BODIES: dict[StageName, str] = {
    "text": "values = Cast<to=1>(token_ids) text_embeddings = MatMul(values, words)",
    "scores": """
        rows = Gather(text_embeddings, class_rows)
        one = Constant<value_ints=[1]>()
        classes = ReduceMean<keepdims=0>(rows, one)
        scores = MatMul(classes, places)
        sharp = Mul(scores, tau)
        used = Cast<to=1>(class_mask)
        column = Unsqueeze(used, one)
        seed_scores = Mul(sharp, column)
    """,
    "attention": f"{NEAR} head_affinity = Mul(heads, mean)",
    "local": NEAR,
    "local_carried": "local_weights = Neg(keyframe_weights)",
    "mix": """
        first = Constant<value_ints=[0]>()
        others = Constant<value_ints=[1, 2]>()
        mean = ReduceMean<keepdims=0>(head_affinity, first)
        affinity = Mul(mean, head_temperature)
        head_weights = ReduceMax<keepdims=0>(head_affinity, others)
        head_entropies = ReduceMin<keepdims=0>(head_affinity, others)
    """,
    "walk": WALK,
    "walk_warm": WALK,
    "walk_carried": WALK,
    "walk_exact": WALK,
    "carry": "carried_scores = Mul(previous_scores, keep)",
    "solve": """
        local_affinity = Mul(affinity, alpha)
        turned = Transpose(affinity)
        closed_sum = MatMul(turned, affinity)
    """,
    "readout": READ_OUT,
    "readout_guided": READ_OUT,
}
WEIGHTS = {
    "words": (CONTEXT_LENGTH, TEXT_WIDTH), "places": (TEXT_WIDTH, TOKENS), "near": (8, *GRID_HW), "heads": (HEADS, TOKENS, POOLED_KEYS),
}  # fmt: skip


def graph_bytes(stage: StageName, spec: StageSpec, body: str) -> bytes:
    """A graph of a stage as ONNX, with these nodes."""
    sides = [
        ", ".join(f"{TYPES[tensor.dtype]}{_shape(tensor)} {tensor.name}" for tensor in tensors)
        for tensors in (spec.inputs, spec.outputs)
    ]
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    model = onnx.parser.parse_model(f"{header} {stage} ({sides[0]}) => ({sides[1]}) {{ {body} }}")
    random = np.random.default_rng(1)
    for name, shape in WEIGHTS.items():
        if re.search(rf"\b{name}\b", body):
            values = random.random(shape, dtype=np.float32)
            model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.ravel()))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _shape(tensor: TensorSpec) -> str:
    return f"[{','.join(map(str, tensor.axes))}]" if tensor.axes else ""


def make_small_bundle(folder: Path, bodies: Mapping[StageName, str] = MappingProxyType({})) -> Path:
    """Write the bundle into a folder that need not exist; returns the folder.

    Args:
        folder: where.
        bodies: nodes to use instead of a stage's own; their outputs need not be what the manifest says.
    """
    make_fake_bundle(folder)
    for stage, body in {**BODIES, **bodies}.items():
        (folder / f"{stage}.onnx").write_bytes(graph_bytes(stage, STAGES[stage], body))
    write_manifest(folder)
    return folder
