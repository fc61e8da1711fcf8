"""Each stage for several frames, run as plain torch, gives every frame what the stage for one frame gives it alone."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nerve_export.graphs import modules, modules_batched, modules_readout
from nerve_export.graphs.modules_batched import BatchedMixStage, BatchedWalkStage, merged_part
from nerve_export.graphs.sizes import Sizes
from nerve_ref.params import EntropyMode, NerveParams
from nerve_ref.providers.provider import Clip
from nerve_ref.weights.networks import Models

FINE, COARSE, UP = "down_blocks.1.attentions.0", "down_blocks.2.attentions.0", "up_blocks.1.attentions.0"
MODULES: tuple[Any, Any] = (modules_batched, modules)
ITEMS = 3
GRID_HW, CELLS_HW = (16, 16), (8, 8)
SIZES = Sizes(
    working_hw=(64, 64), grid_hw=GRID_HW, pooled_keys=64, heads=4, text_width=16, context_length=8, max_batch=ITEMS
)


def own(models: Models) -> Models:
    """Networks of one stage alone: it takes the layers of its networks for good."""
    return Models.ready(copy.deepcopy(models.clip), models.tokenizer, copy.deepcopy(models.provider))


def assert_each_alone(batched: nn.Module, single: nn.Module, items: Sequence[Sequence[Tensor]]) -> None:
    """A frame of an item is (1,H,W,3) for the stage of one; all its other tensors lack the axis of the items."""
    join = [torch.cat if each.dtype == torch.uint8 else torch.stack for each in items[0]]
    together = [put([item[place] for item in items]) for place, put in enumerate(join)]
    with torch.no_grad():
        found = batched(*together)
        expected = [single(*item) for item in items]
    if isinstance(found, Tensor):
        found, expected = (found,), [(each,) for each in expected]
    assert len(found) == len(expected[0])
    for place, tensor in enumerate(found):
        for item, alone in enumerate(expected):
            torch.testing.assert_close(tensor[item], alone[place], atol=2e-5, rtol=1e-4)
    assert not torch.equal(found[0][0], found[0][1])


def frames(frame: Tensor) -> list[Tensor]:
    return [frame[None], frame.flip(0)[None], (255 - frame)[None]]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def vocabulary(item: int, width: int) -> tuple[Tensor, ...]:
    """Text rows, class rows, class mask and tau, of another content for each item."""
    embeddings = nn.functional.normalize(random(4, width, seed=item) - 0.5, dim=-1)
    rows = torch.tensor([[0, 1], [2, 2], [3, 3]]).roll(item, 0)
    return embeddings, rows, torch.tensor([True, True, item != 1]), torch.tensor(20.0 + 5 * item)


@pytest.mark.parametrize("clip_mode", ["maskclip", "naclip", "vanilla", "early_fusion"])
def test_scores_of_every_frame_are_of_its_own_vocabulary(
    clip_mode: str, models: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = replace(params, clip_mode=clip_mode)  # type: ignore[arg-type]  # a Literal
    stages = [make.scores_stage(own(models), varied, SIZES, native=True) for make in MODULES]
    width = models.clip.config.projection_dim
    items = [(each, *vocabulary(item, width)) for item, each in enumerate(frames(frame))]
    assert_each_alone(stages[0], stages[1], items)


@pytest.mark.parametrize(
    "changes",
    [
        {"local_features": "latent"},
        {"local_features": "rgb", "layers": (FINE, COARSE)},
        {"local_features": "keys", "layers": (UP, COARSE)},
        {"affinity": "linear", "sharpen": 1.0, "key_norm": False, "layers": (FINE, UP)},
        {"key_norm": True, "row_threshold": 0.3},
    ],
    ids=str,
)
def test_affinities_of_every_frame_are_its_own(
    changes: dict[str, Any], models: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = replace(params, **changes)
    stages = [make.attention_stage(own(models), varied, SIZES, native=True) for make in MODULES]
    assert_each_alone(stages[0], stages[1], [(each,) for each in frames(frame)])


@pytest.mark.parametrize("clip_mode", ["naclip", "early_fusion"])
def test_one_tower_says_both_of_every_frame(clip_mode: str, models: Models, frame: Tensor, params: NerveParams) -> None:
    layer = f"vision_model.encoder.layers.{models.clip.config.vision_config.num_hidden_layers - 1}"
    varied = replace(params, clip_mode=clip_mode, layers=(layer,), pooled_hw=(2, 2), local_features="keys")  # type: ignore[arg-type]  # a Literal
    side = 64 // models.clip.config.vision_config.patch_size
    sizes = replace(SIZES, grid_hw=(side, side), one_tower=True)
    stages = []
    for make in MODULES:
        clip = copy.deepcopy(models.clip)
        tower = Models.ready(clip, models.tokenizer, Clip(clip))
        stages.append(make.attention_stage(tower, varied, sizes, native=True))
    assert_each_alone(stages[0], stages[1], [(each,) for each in frames(frame)])
    width = models.clip.config.projection_dim
    scores = [make.scores_stage(models, varied, sizes, native=True) for make in MODULES]
    features = [nn.functional.normalize(random(side * side, width, seed=9 + item) - 0.5) for item in range(ITEMS)]
    assert_each_alone(scores[0], scores[1], [(each, *vocabulary(item, width)) for item, each in enumerate(features)])


def seeds(item: int) -> Tensor:
    """G (c,p) of which the last class is off in the second item."""
    scores = (5 * random(5, 256, seed=item)).softmax(0)
    return scores if item != 1 else torch.cat([scores[:4] / scores[:4].sum(0), torch.zeros(1, 256)])


def pooled_heads(item: int) -> Tensor:
    return (torch.tensor([1.0, 6.0, 30.0])[:, None, None] * random(3, 256, 64, seed=20 + item)).softmax(-1)


def linear_heads(item: int) -> Tensor:
    rows, columns = random(2, 3, 256, 9, seed=30 + item)
    return torch.stack([rows / (rows * columns.sum(1, keepdim=True)).sum(2, keepdim=True), columns])


KINDS: dict[str, tuple[Callable[[int], Tensor], dict[str, Any]]] = {
    "pooled": (pooled_heads, {}),
    "linear": (linear_heads, {"affinity": "linear", "sharpen": 1.0, "key_norm": False}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("self_loop", [False, True])
@pytest.mark.parametrize("entropy", ["zscore", "plain", "mean"])
def test_heads_of_every_frame_are_weighed_by_themselves(
    kind: str, self_loop: bool, entropy: EntropyMode, params: NerveParams
) -> None:
    heads, changes = KINDS[kind]
    varied = replace(params, self_loop=self_loop, entropy=entropy, **changes)
    items = [(heads(item), seeds(item), torch.tensor(0.5 + item)) for item in range(ITEMS)]
    assert_each_alone(BatchedMixStage(varied, GRID_HW), modules.MixStage(varied, GRID_HW), items)


@pytest.mark.parametrize("kind", KINDS)
def test_the_walk_of_every_frame_has_its_own_alpha_and_beta(kind: str, params: NerveParams) -> None:
    heads, changes = KINDS[kind]
    varied = replace(params, **changes)
    items = []
    for item in range(ITEMS):
        affinity = heads(item)[0] if kind == "pooled" else heads(item)[:, 0]
        weights = random(8, *GRID_HW, seed=40 + item).softmax(0)
        items.append((seeds(item), affinity, weights, torch.tensor(0.9 - item / 10), torch.tensor(0.2 + item / 5)))
    assert_each_alone(BatchedWalkStage(varied, GRID_HW, 4), modules.WalkStage(varied, GRID_HW, 4), items)


@pytest.mark.parametrize("readout", ["bilinear", "guided"])
def test_every_frame_is_read_out_by_itself(readout: str, frame: Tensor, params: NerveParams) -> None:
    varied = replace(params, readout=readout)  # type: ignore[arg-type]  # a Literal
    scores = [torch.where(seeds(item) < 0, torch.nan, seeds(item)) for item in range(ITEMS)]
    scores[2][:, :40] = torch.nan
    if readout == "guided":
        single: nn.Module = modules_readout.FixedGuidedReadoutStage(GRID_HW, (64, 64), varied.guide_width)
        items: list[tuple[Tensor, ...]] = [
            (each, picture, torch.tensor(item / 4))
            for item, (each, picture) in enumerate(zip(scores, frames(frame), strict=True))
        ]
    else:
        single = modules_readout.FixedReadoutStage(GRID_HW, (64, 64))
        items = [(each, torch.tensor(item / 4)) for item, each in enumerate(scores)]
    assert_each_alone(merged_part("frame", varied, SIZES), single, items)
