"""A sweep finds the setting that is best, on validation scenes only."""

from dataclasses import fields

import numpy as np
import pytest

from nerve_bench.experiments import tune
from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.sources import Observer
from nerve_bench.experiments.tune import SWEEPS, grid, sweep
from nerve_bench.measure.accuracy import World
from nerve_bench.world import CLASS_NAMES, SEEDS, Scene
from nerve_ref.params import NerveParams
from tests.unit.nerve_bench.conftest import quietly


def test_a_grid_holds_every_combination_once() -> None:
    settings = grid(alpha=[0.1, 0.2, 0.3], beta=[0.0, 1.0])
    assert len(settings) == 6
    assert {(setting["alpha"], setting["beta"]) for setting in settings} == {
        (alpha, beta) for alpha in (0.1, 0.2, 0.3) for beta in (0.0, 1.0)
    }


@pytest.mark.parametrize("part", SWEEPS)
def test_every_sweep_names_constants_of_the_method(part: str) -> None:
    names = {field.name for field in fields(NerveParams)}
    assert all(set(setting) <= names for setting in SWEEPS[part])


def test_a_planted_best_setting_comes_first_and_a_planted_worst_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are planted: alpha 0.3 is given the truth, alpha 0.9 one wrong class, alpha 0.6 half of each."""
    looked_at: list[int] = []

    class PlantedSolver(SceneSolver):
        def labels(self, setting: Setting) -> np.ndarray:
            truth, alpha = self.scene.labels, setting.params.alpha
            wrong = (truth + 1) % len(CLASS_NAMES)
            halves = np.where(np.arange(128) % 2, truth, wrong)
            return {0.0: wrong, 0.3: truth, 0.6: halves, 0.9: wrong}[alpha].astype(np.uint8)

    def solver_of(world: World, scene: Scene, observer: Observer, scene_key: int) -> SceneSolver:
        looked_at.append(scene_key)
        return PlantedSolver(world, scene, observer, scene_key)

    monkeypatch.setattr(tune, "SceneSolver", solver_of)
    *bounds, best, middle, worst = sweep(world, grid(alpha=[0.9, 0.3, 0.6]), 2, quietly)
    assert [record["setting"] for record in bounds] == ["clip_only", "oracle"]
    assert [record["setting"]["alpha"] for record in (best, middle, worst)] == [0.3, 0.6, 0.9]
    assert best["miou"] == 100
    assert worst["miou"] == 0
    assert looked_at == list(SEEDS["validation"][:2])


def test_a_sweep_rates_a_setting_as_the_method_itself_does(world: World) -> None:
    """alpha 0 leaves G, whatever the rest: the setting must be worth exactly what CLIP alone is worth."""
    clip_only, oracle, *rated = sweep(world, grid(alpha=[0.0, 0.85]), 1, quietly)
    assert (clip_only["setting"], oracle["setting"]) == ("clip_only", "oracle")
    unmoved = next(record for record in rated if record["setting"] == {"alpha": 0.0})
    assert unmoved["miou"] == clip_only["miou"]
    assert [record["miou"] for record in rated] == sorted((record["miou"] for record in rated), reverse=True)
