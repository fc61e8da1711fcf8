"""What every graph of the bundle is, and is not: its inputs and outputs, its size, its metadata."""

import math
import re
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto

from nerve_export.build import build
from nerve_export.plan import make_plan
from nerve_export.presets.files import Preset
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.weights.networks import Models
from nerve_runtime.backends import open_backend
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.spec import StageName, TensorSpec
from tests.contracts.checkout import ROOT, run_python
from tests.parity.damage import constants_of

pytestmark = pytest.mark.onnx

STAGES: tuple[StageName, ...] = (
    *("text", "scores", "attention", "mix", "walk", "walk_warm", "carry", "local", "walk_carried"),
    *("solve", "walk_exact", "readout", "readout_guided", "frame"),
)
DTYPES = {
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}
TAPS: dict[StageName, list[str]] = {
    "scores": ["features"],
    "attention": ["latent", *(f"{name}{index}" for index in range(3) for name in "qk")],
}
"""Inner tensors that parity looks at; the packaged models have three layers in use."""
CLASSES = 21
FREE_AXES = {"c": CLASSES, "r": CLASSES, "k": 2, "n": CLASSES, "H": 128, "W": 128}
PACKAGE_FOLDERS = ("export", "nerve_ref", "runtime")


@pytest.fixture(scope="session")
def graphs(bundle: Path, manifest: Manifest) -> dict[StageName, ModelProto]:
    return {stage: onnx.load(bundle / record.onnx) for stage, record in manifest.stages.items()}


def signature(values: object) -> list[tuple[str, int, tuple[int | str, ...]]]:
    """Name, element type and axes of each input or output; a free axis is its letter."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values  # type: ignore[attr-defined]  # protobuf's containers have no public type
    ]


def promised(specs: tuple[TensorSpec, ...]) -> list[tuple[str, int, tuple[int | str, ...]]]:
    return [(spec.name, DTYPES[spec.dtype], spec.axes) for spec in specs]


def shapes_of(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a graph, free axes at `FREE_AXES`; 0 for one that is only known at run time."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                size = FREE_AXES.get(dim.dim_param)
                dim.Clear()
                if size is not None:
                    dim.dim_value = size
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def strings_of(model: ModelProto) -> set[str]:
    """Every string and every name in a model, but not the bytes of its weights."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    return set(re.findall(r'"((?:[^"\\]|\\.)*)"', str(bare)))


def count(graph: GraphProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in graph.node)


def test_the_bundle_has_every_stage(manifest: Manifest) -> None:
    assert set(manifest.stages) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_the_inputs_are_those_of_the_manifest(
    stage: StageName, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    assert signature(graphs[stage].graph.input) == promised(manifest.stages[stage].spec.inputs)


@pytest.mark.parametrize("stage", STAGES)
def test_the_outputs_are_those_of_the_manifest(
    stage: StageName, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    """A free axis that comes from values, as the read-out's, has a name of the exporter's."""
    found, expected = signature(graphs[stage].graph.output), promised(manifest.stages[stage].spec.outputs)
    assert [tensor_spec[:2] for tensor_spec in found] == [tensor_spec[:2] for tensor_spec in expected]
    for (_, _, axes), (_, _, wanted) in zip(found, expected, strict=True):
        assert [axis if isinstance(axis, int) else "free" for axis in axes] == [
            axis if isinstance(axis, int) else "free" for axis in wanted
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_graph_uses_plain_onnx_of_the_manifests_opset(
    stage: StageName, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    assert [(opset.domain, opset.version) for opset in graphs[stage].opset_import] == [("", manifest.opset)]
    assert {node.domain for node in graphs[stage].graph.node} == {""}
    assert not graphs[stage].functions


@pytest.mark.parametrize("stage", STAGES)
def test_a_graph_says_what_it_is_and_nothing_else(
    stage: StageName, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    stamp = {"nerve_stage": stage, "nerve_preset": manifest.preset, "nerve_precision": manifest.precision}
    metadata = {entry.key: entry.value for entry in graphs[stage].metadata_props}
    taps = {key.partition(":")[2]: value for key, value in metadata.items() if key.startswith("nerve_tap:")}
    assert {key: value for key, value in metadata.items() if not key.startswith("nerve_tap:")} == stamp
    assert sorted(taps) == sorted(TAPS.get(stage, []))
    made = {name for node in graphs[stage].graph.node for name in node.output}
    assert set(taps.values()) <= made - {value.name for value in graphs[stage].graph.output}
    assert graphs[stage].producer_name == "nerve-deploy"


@pytest.mark.parametrize("stage", STAGES)
def test_no_string_of_a_graph_names_a_file_or_a_folder(stage: StageName, graphs: dict[StageName, ModelProto]) -> None:
    strings = strings_of(graphs[stage])
    assert stage in strings, "the stamp is among the strings, so the search sees them"
    assert [text for text in strings if re.search(r"[/\\]|\.py\b|site-packages", text)] == []


@pytest.mark.parametrize(
    "stage", ["attention", "mix", "walk", "walk_warm", "walk_carried", "solve", "walk_exact", "frame"]
)
def test_no_tensor_is_tokens_by_tokens(
    stage: StageName, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    sizes = manifest.geometry
    rows = (sizes.tokens, sizes.pooled_keys)  # of all heads, or of one layer's; also seen flat, for the product
    flat = (sizes.tokens * sizes.pooled_keys,)
    columns = (sizes.pooled_keys, 8, *sizes.grid_hw)  # the neighbours of every column, in `solve`: 8 p m
    shapes = shapes_of(graphs[stage])
    made = [name for node in graphs[stage].graph.node for name in node.output if name]
    assert [name for name in made if name not in shapes or 0 in shapes[name]] == [], "every shape is known"
    square = {name: shape for name, shape in shapes.items() if shape.count(sizes.tokens) > 1}
    large = {
        name: shape
        for name, shape in shapes.items()
        if math.prod(shape) >= sizes.tokens**2 and shape[1:] not in (rows, flat) and shape != columns
    }
    assert square == {}
    assert large == {}


def test_attention_gives_rows_over_pooled_keys_and_no_attention_map(
    graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    sizes = manifest.geometry
    assert sizes.pooled_keys < sizes.tokens
    shapes = [shape for _, _, shape in signature(graphs["attention"].graph.output)]
    assert shapes == [(sizes.heads, sizes.tokens, sizes.pooled_keys), (8, *sizes.grid_hw)]


@pytest.mark.parametrize(
    ("stage", "constant"),
    [("walk", "steps"), ("walk_warm", "warm_steps"), ("walk_carried", "warm_steps"), ("frame", "steps")],
)
def test_a_walk_is_one_convolution_with_the_eight_kernels_a_step(
    stage: StageName, constant: str, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    graph = graphs[stage].graph
    kernels = {tensor.name for tensor in graph.initializer if tuple(tensor.dims) == (8, 1, 3, 3)}
    local = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in kernels]
    assert len(local) == getattr(manifest.method.baked, constant)


@pytest.mark.parametrize("stage", ["walk", "walk_warm"])
def test_a_walk_has_no_other_convolution_and_no_padding(
    stage: StageName, graphs: dict[StageName, ModelProto], manifest: Manifest
) -> None:
    graph = graphs[stage].graph
    steps = manifest.method.baked.steps if stage == "walk" else manifest.method.baked.warm_steps
    assert count(graph, "Conv") == steps
    assert count(graph, "Pad") == count(graph, "Slice") == count(graph, "Gather") == 0


@pytest.mark.parametrize("stage", STAGES)
def test_no_graph_scatters_or_resizes_with_antialias(stage: StageName, graphs: dict[StageName, ModelProto]) -> None:
    graph = graphs[stage].graph
    assert [node.op_type for node in graph.node if node.op_type.startswith("Scatter")] == []
    antialias = [
        a.i for node in graph.node if node.op_type == "Resize" for a in node.attribute if a.name == "antialias"
    ]
    assert set(antialias) <= {0}


LAST_LAYER = "up_blocks.1.attentions.1"
BEHIND_THE_LAST_LAYER = (
    "conv_norm_out",
    "conv_out",
    "up_blocks.2.",
    "up_blocks.1.upsamplers.",
    f"{LAST_LAYER}.proj_out",
    *(
        f"{LAST_LAYER}.transformer_blocks.0.{part}"
        for part in ("attn1.to_v", "attn1.to_out", "norm2", "attn2", "norm3", "ff")
    ),
)


ATTENTION_BEFORE_THE_LAST_LAYER = (
    "down_blocks.1.attentions.0",
    "down_blocks.2.attentions.0",
    "up_blocks.1.attentions.0",
)


def diffusion(models: Models) -> StableDiffusion:
    assert isinstance(models.provider, StableDiffusion)
    return models.provider


def test_the_layers_behind_are_named_for_the_layers_of_the_preset(preset: Preset, models: Models) -> None:
    assert preset.params.layers[-1] == LAST_LAYER, "name what lies behind the new last layer, in execution order"
    names = [name for name, _ in diffusion(models).unet.named_parameters()]
    assert [part for part in BEHIND_THE_LAST_LAYER if not any(name.startswith(part) for name in names)] == []


@pytest.mark.parametrize("stage", ["attention", "frame"])
def test_nothing_of_the_networks_behind_the_last_used_layer_is_carried(
    stage: StageName, graphs: dict[StageName, ModelProto]
) -> None:
    names = [tensor.name for tensor in graphs[stage].graph.initializer]
    unet = [name.rpartition("unet.")[2] for name in names if "unet." in name]
    assert any(name.startswith("up_blocks.1.attentions.0") for name in unet)
    assert [name for name in unet if name.startswith(BEHIND_THE_LAST_LAYER)] == []
    assert [name for name in names if "decoder" in name] == []


@pytest.mark.parametrize("stage", ["attention", "frame"])
def test_time_and_the_empty_prompt_are_folded_away(stage: StageName, graphs: dict[StageName, ModelProto]) -> None:
    """What depends on constants alone is a constant: no embedding of the timestep, no keys of the prompt."""
    names = [tensor.name for tensor in graphs[stage].graph.initializer]
    assert [name for name in names if "time_emb" in name or "attn2.to_k" in name or "attn2.to_v" in name] == []
    assert [name for name in names if name.endswith("attn2.processor.key")] != []
    assert count(graphs[stage].graph, "Sin") == count(graphs[stage].graph, "Cos") == 0


def test_attention_stays_one_operation_but_where_clip_needs_probabilities(graphs: dict[StageName, ModelProto]) -> None:
    before = len(ATTENTION_BEFORE_THE_LAST_LAYER)
    assert count(graphs["attention"].graph, "Attention") == 2 * before, "self- and cross-attention of each"
    assert count(graphs["attention"].graph, "GroupNormalization") > 0
    assert count(graphs["text"].graph, "Attention") > 0


def test_attention_carries_no_more_bytes_than_the_modules_that_it_needs(
    graphs: dict[StageName, ModelProto], models: Models
) -> None:
    vae, unet = diffusion(models).vae, diffusion(models).unet
    encoder = [parameter for part in (vae.encoder, vae.quant_conv) for parameter in part.parameters()]
    folded = ("time_emb", "attn2.to_k", "attn2.to_v")
    used = encoder + [
        parameter
        for name, parameter in unet.named_parameters()
        if not name.startswith(BEHIND_THE_LAST_LAYER) and not any(part in name for part in folded)
    ]
    needed = sum(parameter.numel() * 4 for parameter in used)
    own = {"noise", "reach"}
    carried = dict(constants_of(graphs["attention"].graph))
    assert needed < 0.9 * sum(parameter.numel() * 4 for parameter in unet.parameters())
    # Keys and values of four prompt tokens, and shapes, take a few kilobytes.
    assert sum(size for name, size in carried.items() if name.rpartition(".")[2] not in own) < needed + 16_384


def test_the_merged_graph_holds_no_node_that_its_parts_do_not(graphs: dict[StageName, ModelProto]) -> None:
    parts = sum(len(graphs[part].graph.node) for part in ("scores", "attention", "mix", "walk"))
    merged = len(graphs["frame"].graph.node)
    assert merged <= parts + len(graphs["readout_guided"].graph.node), "and the preset's read-out, at working size"
    expected = {"seed_scores", "head_affinity", "local_weights", "affinity", "label_scores"}
    assert expected <= {name for node in graphs["frame"].graph.node for name in node.output}


@pytest.mark.slow
def test_two_checkouts_in_different_folders_give_equal_bytes(tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "another" / "home" / "deeper")
    for folder in folders:
        for name in PACKAGE_FOLDERS:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        ended = run_python("export/build_engines.py", "--target", "ort", cwd=folder)
        assert ended.returncode == 0, ended.stderr
    first, second = (folder / "bundles" / "tiny" for folder in folders)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert [name for name in names if name.endswith(".onnx")] == sorted(f"{stage}.onnx" for stage in STAGES)
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


@pytest.mark.slow
def test_opset_20_builds_agrees_with_the_reference_and_has_no_newer_operation(tmp_path: Path, preset: Preset) -> None:
    plan = make_plan("tiny", opset=20, steps=4, out=tmp_path / "jetpack")
    result = build(plan, (), lambda what: None)
    assert result.parity is not None
    assert result.parity.passed
    manifest = load_manifest(plan.out)
    assert manifest.opset == 20
    for stage, record in manifest.stages.items():
        model = onnx.load(plan.out / record.onnx)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        assert count(model.graph, "Attention") == 0
        with open_backend("ort", plan.out, manifest) as backend:
            assert backend.open_session(stage).spec == record.spec
    assert count(onnx.load(plan.out / "walk.onnx").graph, "Conv") == 4
