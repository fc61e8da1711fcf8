"""The tiny bundle in fp16: real half-precision arithmetic, the compiler's parser, and the audit on frames of its world."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from nerve_bench.world import make_scene
from nerve_export.build import BuildResult, build
from nerve_export.graphs.lowering import watched_ranges
from nerve_export.graphs.networks import DiffusionHeads
from nerve_export.plan import make_plan
from nerve_export.precision import RANGE_LIMIT, read_precision_plan
from nerve_export.presets.files import Preset
from nerve_ref.pipeline import segment
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import parse_classes, text_bank
from nerve_ref.weights.networks import Models, tiny_models
from tests.true_size.test_opset_20 import problems

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
NETWORKS = ("text", "scores", "attention")
SCENES = 8


def torch_frame(frame: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(frame)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return build(make_plan("tiny", precision="fp16", out=tmp_path_factory.mktemp("fp16") / "tiny"), ())


@pytest.fixture(scope="module")
def folder(halved: BuildResult) -> Path:
    return Path(halved.artefacts[-1].path)


def test_it_agrees_with_the_reference(halved: BuildResult) -> None:
    assert halved.parity is not None
    assert halved.parity.passed
    assert halved.manifest.precision == "fp16"


def test_weights_of_the_networks_are_half_and_of_norms_are_not(folder: Path) -> None:
    kinds = {
        name: {
            tensor.name: tensor.data_type
            for tensor in onnx.load(folder / f"{name}.onnx").graph.initializer
            if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        }
        for name in NETWORKS
    }
    for weights in kinds.values():
        assert TensorProto.FLOAT16 in weights.values()
        assert all(
            kind == TensorProto.FLOAT for name, kind in weights.items() if "norm" in name.rpartition(".")[0][-8:]
        )


@pytest.mark.parametrize("stage", ["mix", "walk", "walk_warm", "readout", "readout_guided"])
def test_the_method_itself_has_no_half_precision(stage: str, folder: Path) -> None:
    model = onnx.load(folder / f"{stage}.onnx")
    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    assert [tensor.name for tensor in model.graph.initializer if tensor.data_type in half] == []
    assert [node.name for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i in half] == []


def test_arithmetic_that_hides_no_overflow_gives_the_references_rows(
    folder: Path, models: Models, preset: Preset
) -> None:
    """ONNX Runtime's processor computes fp16 graphs in float32; onnx.reference rounds after every operation."""
    frame = make_scene(7, size_px=128).rgb
    bank = text_bank(models.clip, models.tokenizer, parse_classes("grass; zebra"), TEMPLATE_SETS["single"])
    expected = segment(models, torch_frame(frame), bank, preset.params)
    evaluator = ReferenceEvaluator(onnx.load(folder / "attention.onnx"))
    rows, local_weights = (np.asarray(made) for made in evaluator.run(None, {"frame": frame[None]}))
    B = expected.affinity.B.numpy()  # type: ignore[attr-defined]  # of the pooled kind
    assert np.isfinite(rows).all()
    assert (rows * B).sum() / np.linalg.norm(rows) / np.linalg.norm(B) > 0.999
    np.testing.assert_allclose(local_weights, expected.local_weights.numpy(), atol=2e-3)


@pytest.mark.parametrize("stage", [*NETWORKS, "frame"])
def test_the_compilers_parser_takes_the_graph(stage: str, folder: Path) -> None:
    layers, refused = problems(folder / f"{stage}.onnx")
    assert refused == []
    assert layers > 10


def test_the_audit_on_frames_of_the_world_finds_nothing_near_the_limit(preset: Preset, folder: Path) -> None:
    own = tiny_models()
    assert isinstance(own.provider, StableDiffusion)
    network = DiffusionHeads(own.provider, preset.params, native=True)
    with torch.no_grad(), watched_ranges(network) as largest:
        for seed in range(SCENES):
            network(torch_frame(make_scene(seed, size_px=128).rgb)[None])
    written = read_precision_plan(folder / "precision.json", "fp16").stages["attention"]
    assert len(largest) > 100
    assert 1 < max(largest.values()) < RANGE_LIMIT / 50
    assert written.keep_fp32 == ()
    # The seeded test frames of a build see what frames of the world see, within a factor of two.
    assert 0.5 < max(written.largest.values()) / max(largest.values()) < 2
