"""A solver that shares work between settings says what the method itself says, whatever came before."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from nerve_bench.experiments import sources
from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.sources import UP_32A, Observer, clip_heads, colour_heads, dinov2_provider
from nerve_bench.measure.accuracy import World
from nerve_bench.world import SEEDS, Scene, make_scene
from nerve_ref.clip_scores import clip_pixels
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import segment
from nerve_ref.walk import closed_form

SCENE = make_scene(SEEDS["validation"][3], size_px=128, close_up=False)
NO_KNOBS: dict[str, Any] = {"sharpen": 1.0, "key_norm": False}


@pytest.fixture(scope="module")
def observer(world: World) -> Observer:
    return Observer(world)


def solver_of(world: World, observer: Observer, scene: Scene = SCENE) -> SceneSolver:
    return SceneSolver(world, scene, observer, "scene")


def with_constants(params: NerveParams, **constants: Any) -> Setting:
    return Setting(replace(params, **constants))


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"affinity": "linear", **NO_KNOBS},
        {"affinity": "softmax_dense"},
        {"alpha": 0.0},
        {"layers": (UP_32A,)},
        {"timestep": 100},
    ],
)
def test_labels_are_those_of_the_method(world: World, observer: Observer, constants: dict[str, Any]) -> None:
    setting = with_constants(world.params, **constants)
    for params, colour_width in (
        (replace(setting.params, readout="bilinear"), 0.0),
        (replace(setting.params, readout="guided", guide_width=0.2), 0.2),
    ):
        expected = segment(world.models, torch.from_numpy(SCENE.rgb), world.bank, params)
        found = solver_of(world, observer).labels(replace(setting, colour_width=colour_width))
        np.testing.assert_array_equal(found, expected.labels.numpy())


CHANGES: list[dict[str, Any]] = [
    {"tau": 20.0},
    {"layers": (UP_32A,)},
    {"noise": "none"},
    {"affinity": "linear", **NO_KNOBS},
    {"pooled_hw": (8, 8)},
    {"temperature": 2.0},
    {"sharpen": 1.0},
    {"row_threshold": 0.3},
    {"key_norm": False},
    {"entropy": "plain"},
    {"head_temperature": 2.0},
    {"self_loop": True},
    {"local_features": "keys"},
    {"sigma": 0.05},
    {"alpha": 0.7},
    {"beta": 0.6},
    {"steps": 3},
]


@pytest.mark.parametrize("constants", CHANGES, ids=lambda constants: next(iter(constants)))
def test_a_constant_counts_also_where_other_settings_were_solved_before(
    world: World, observer: Observer, constants: dict[str, Any]
) -> None:
    """What two settings share is kept: were a constant missing from a key, the older result would come back."""
    changed = with_constants(world.params, **constants)
    used, fresh = solver_of(world, observer), solver_of(world, observer)
    before = used.scores(Setting(world.params))
    torch.testing.assert_close(used.scores(changed), fresh.scores(changed), rtol=0, atol=0)
    assert not torch.equal(used.scores(changed), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_mode": "per_pixel"},
        {"beta_mode": "per_image"},
        {"exact": True},
        {"provider": "rgb"},
        {"provider": "clip"},
    ],
    ids=str,
)
def test_what_is_tried_beside_the_method_counts_too(world: World, observer: Observer, changes: dict[str, Any]) -> None:
    plain = Setting(world.params)
    changed = replace(plain, **changes)
    used, fresh = solver_of(world, observer), solver_of(world, observer)
    before = used.scores(plain)
    torch.testing.assert_close(used.scores(changed), fresh.scores(changed), rtol=0, atol=0)
    assert not torch.equal(used.scores(changed), before)


def test_the_temperature_of_beta_counts(world: World, observer: Observer) -> None:
    solver = solver_of(world, observer)
    warm, cold = (Setting(world.params, beta_mode="per_pixel", beta_temperature=value) for value in (1.0, 0.1))
    assert not torch.equal(solver.scores(warm), solver.scores(cold))
    assert not torch.equal(solver.betas(warm), solver.betas(cold))


def test_a_guided_read_out_changes_labels_near_borders_only(world: World, observer: Observer) -> None:
    solver = solver_of(world, observer)
    plain = Setting(world.params)
    guided = replace(plain, colour_width=0.06)
    assert solver.scores(guided) is solver.scores(plain)
    changed = (solver.labels(guided) != solver.labels(plain)).mean()
    assert 0 < changed < 0.1


def test_a_sweep_costs_walks_and_one_run_of_the_networks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        whole = getattr(sources, name)

        def run(*arguments: Any) -> Any:
            runs.append(name)
            return whole(*arguments)

        return run

    for name in ("observe_clip", "observe_affinity"):
        monkeypatch.setattr(sources, name, counted(name))
    observer = Observer(world)
    for _ in range(2):
        solver = solver_of(world, observer)
        for alpha in (0.5, 0.9):
            for beta in (0.1, 0.6):
                solver.labels(with_constants(world.params, alpha=alpha, beta=beta, head_temperature=beta))
    assert runs == ["observe_clip", "observe_affinity"]


@pytest.mark.parametrize("mode", ["fixed", "per_pixel"])
def test_the_exact_walk_is_the_closed_form(world: World, observer: Observer, mode: Any) -> None:
    solver = solver_of(world, observer)
    setting = Setting(world.params, exact=True, beta_mode=mode)
    limit = closed_form(solver.seeds(setting), solver.dense(setting), world.params.alpha).float()
    torch.testing.assert_close(solver.scores(setting), limit, rtol=0, atol=1e-4)
    many = replace(setting, exact=False, params=replace(world.params, steps=200))
    torch.testing.assert_close(solver.scores(many), limit, rtol=0, atol=1e-4)


def test_changes_name_what_differs_and_nothing_else(world: World) -> None:
    setting = Setting(replace(world.params, alpha=0.5), exact=True)
    assert setting.changes(world.params) == {"alpha": 0.5, "exact": True}
    assert Setting(world.params).changes(world.params) == {}


def test_colours_attend_by_minus_their_squared_distance(world: World) -> None:
    frame = torch.from_numpy(SCENE.rgb)
    (layer,) = colour_heads(world, frame, world.params, (16, 16))
    ours = torch.softmax(layer.q @ layer.k.transpose(1, 2) * layer.q.shape[-1] ** -0.5, dim=-1)
    colours = frame.float().reshape(16, 8, 16, 8, 3).mean((1, 3)).reshape(256, 3) / 255
    squared = torch.cdist(colours.double(), colours.double()).square()
    for head, scale in zip(ours, sources.COLOUR_SCALES, strict=True):
        expected = torch.softmax(-scale * squared, dim=-1).float()
        torch.testing.assert_close(head, expected, rtol=1e-3, atol=1e-6)


def test_clips_own_heads_attend_as_clip_does(world: World) -> None:
    """Up to the share that the class token takes of each row."""
    frame = torch.from_numpy(SCENE.rgb)
    (layer,) = clip_heads(world, frame, world.params, (8, 8))
    ours = torch.softmax(layer.q @ layer.k.transpose(1, 2) * layer.q.shape[-1] ** -0.5, dim=-1)
    clip = world.models.clip
    before = clip.config.vision_config._attn_implementation
    clip.set_attn_implementation("eager")
    with torch.no_grad():
        attended = clip.vision_model(clip_pixels(frame, (128, 128)), output_attentions=True).attentions[-1][
            0, :, 1:, 1:
        ]
    clip.set_attn_implementation(before)
    torch.testing.assert_close(ours, attended / attended.sum(-1, keepdim=True), rtol=1e-3, atol=1e-5)


def test_clips_heads_come_on_the_grid_of_the_walk(world: World, observer: Observer) -> None:
    (layer,) = solver_of(world, observer).observation(Setting(world.params, provider="clip")).heads
    assert (layer.q.shape, layer.grid_hw) == ((4, 1024, 48), (32, 32))


def test_dinov2_sees_the_frame_enlarged_to_a_token_per_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=12, num_attention_heads=2, patch_size=14, image_size=28)
    torch.manual_seed(0)
    monkeypatch.setattr(sources, "read_dino", lambda path, config_read: Dinov2Model(config))
    heads = dinov2_provider(SCENE)(world, torch.from_numpy(SCENE.rgb), world.params, (4, 4))  # type: ignore[arg-type]
    assert [layer.name for layer in heads] == list(sources.DINOV2_LAYERS)
    assert all((layer.q.shape, layer.grid_hw) == ((2, 16, 8), (4, 4)) for layer in heads)
    assert not torch.allclose(functional.normalize(heads[0].q, dim=-1), functional.normalize(heads[1].q, dim=-1))


def test_a_folder_without_dinov2_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        dinov2_provider(tmp_path)


def test_betas_of_a_fixed_beta_are_refused(world: World, observer: Observer) -> None:
    with pytest.raises(ValueError, match="expected beta_mode per_image or per_pixel"):
        solver_of(world, observer).betas(Setting(world.params))
