"""Every preset at opset 20, as JetPack 6 needs it: its graphs parse in TensorRT-RTX. Minutes and gigabytes: `make true-size`."""

from pathlib import Path

import pytest

from nerve_export.isolation import run_isolated
from nerve_export.plan import make_plan, presets
from nerve_export.stage_worker import export_stage
from nerve_export.stages import TABLE, sizes_of

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


@pytest.mark.parametrize("size_hw", [None, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize("preset", list(presets()))
def test_all_stages_parse(preset: str, size_hw: tuple[int, int] | None, tmp_path: Path) -> None:
    seed = None if presets()[preset].is_packaged else 0
    plan = make_plan(preset, opset=20, size_hw=size_hw, precision="fp16", random_seed=seed, out=tmp_path / "bundle")
    sizes = sizes_of(plan.backbones, plan.params)
    resolved = None
    if seed is None:
        from nerve_export.plan import plan_weights

        resolved = plan_weights(plan, lambda what: None)
    for stage in TABLE:
        exported = run_isolated(f"exporting {stage}", export_stage, plan, resolved, sizes, stage, tmp_path)
        layers, refused = run_isolated(f"parsing {stage}", problems, tmp_path / exported.record.onnx)
        assert refused == [], f"{stage} of {preset}"
        assert layers > 10
        assert layers < 6000, "a chain that blew up, as slices did in place of one convolution"
