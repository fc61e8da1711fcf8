"""Every preset at opset 20, as JetPack 6 needs it: its graphs parse in TensorRT-RTX. Minutes and gigabytes: `make true-size`."""

from pathlib import Path

import pytest

from nerve_export.graphs.export import export_graph
from nerve_export.graphs.lowering import lower
from nerve_export.graphs.sizes import Sizes, sizes_of
from nerve_export.graphs.stages import TABLE, stages_of
from nerve_export.isolation import run_isolated
from nerve_export.plan import BuildPlan, make_plan, plan_weights
from nerve_export.plan_models import plan_models
from nerve_export.presets.files import presets
from nerve_export.stage_worker import export_stage
from nerve_runtime.bundle.spec import StageName

pytestmark = pytest.mark.true_size
WIDE = (384, 640)


def problems(path: Path) -> tuple[int, list[str]]:
    """Layers that TensorRT-RTX sees in a graph, and what its parser refuses."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    said = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    return network.num_layers, said if not parsed else []


def export_unaudited(plan: BuildPlan, sizes: Sizes, stage: StageName, folder: Path) -> None:
    """A network's stage in fp16 without the audit, which runs the network in float32 first and takes half of the time."""
    models = plan_models(plan, plan_weights(plan, lambda what: None))
    module = TABLE[stage].module(models, plan.params, sizes, False)
    lower(module.network, plan.precision)
    export_graph(module, TABLE[stage].spec(sizes), plan.opset, {}, folder / f"{stage}.onnx")


@pytest.mark.parametrize(
    ("preset", "size_hw"),
    [*((preset, None) for preset in presets()), ("sd21-fast", WIDE), ("edge", WIDE), ("dinov2", WIDE)],
)
def test_all_stages_parse(preset: str, size_hw: tuple[int, int] | None, tmp_path: Path) -> None:
    seed = None if presets()[preset].is_packaged else 0
    plan = make_plan(preset, opset=20, size_hw=size_hw, precision="fp16", random_seed=seed, out=tmp_path / "bundle")
    sizes = sizes_of(plan.backbones, plan.params)
    for stage in stages_of(plan.params):
        if TABLE[stage].network:
            run_isolated(f"exporting {stage}", export_unaudited, plan, sizes, stage, tmp_path)
        else:
            run_isolated(f"exporting {stage}", export_stage, plan, None, sizes, stage, tmp_path)
        layers, refused = run_isolated(f"parsing {stage}", problems, tmp_path / f"{stage}.onnx")
        assert refused == [], f"{stage} of {preset}"
        assert layers > (3 if stage == "carry" else 10)
        assert layers < 6000, "a chain that blew up, as slices did in place of one convolution"
