"""Constants are chosen on validation scenes, figures are of test scenes; every experiment runs, prints and is drawn."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from typer.testing import CliRunner

from nerve_bench.cli import experiments as cli_experiments
from nerve_bench.cli import main as cli
from nerve_bench.experiments import better, questions, steps, workbench
from nerve_bench.experiments.better import CANDIDATES, changed_setting
from nerve_bench.experiments.paper import combined
from nerve_bench.experiments.providers import effective_rank
from nerve_bench.experiments.questions import GROUPS, group_entropies
from nerve_bench.experiments.registry import EXPERIMENTS
from nerve_bench.experiments.shifts import SHIFTS
from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.sources import Observer
from nerve_bench.experiments.steps import knee, second_eigenvalue, settled
from nerve_bench.experiments.workbench import Choice, Workbench, chosen_figures
from nerve_bench.measure.accuracy import World
from nerve_bench.report.plots_experiments import DRAWINGS, draw_experiments
from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene
from nerve_ref.head_weights import head_entropies
from nerve_runtime.errors import UsageError
from tests.unit.nerve_bench.conftest import quietly

PNG = b"\x89PNG"


@pytest.fixture
def bench(world: World) -> Workbench:
    return Workbench(world, Observer(world), SEEDS["validation"][:2], SEEDS["test"][:2], quietly)


def planted(alpha_right: float, looked_at: list[int]) -> Any:
    """A solver whose labels are right where alpha is what it should be, else wrong on every other column."""

    class PlantedSolver:
        def __init__(self, world: World, scene: Any, observer: Observer, scene_key: Any) -> None:
            self.scene = scene
            looked_at.append(scene_key[1])

        def labels(self, setting: Setting) -> np.ndarray:
            truth = self.scene.labels
            wrong = (truth + 1) % len(CLASS_NAMES)
            off = np.arange(truth.shape[1]) % 2 if setting.params.alpha != alpha_right else np.zeros(truth.shape[1])
            return np.where(off, wrong, truth).astype(np.uint8)

    return PlantedSolver


def test_a_choice_is_the_best_member_on_validation_scenes_alone(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    monkeypatch.setattr(workbench, "SceneSolver", planted(0.5, looked_at))
    family = combined(bench.base, alpha=(0.3, 0.5, 0.7))
    choice = bench.choose({"walks": family, "other": combined(bench.base, alpha=(0.1,))})["walks"]
    assert (choice.setting.params.alpha, choice.validation_miou, choice.candidates) == (0.5, 100, 3)
    assert looked_at == list(bench.validation)


def test_figures_and_differences_are_of_test_scenes_alone(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    monkeypatch.setattr(workbench, "SceneSolver", planted(0.5, looked_at))
    choices = {str(alpha): Choice(bench.changed(alpha=alpha), 12.5, 7, 40) for alpha in (0.5, 0.3)}
    right, wrong, difference = chosen_figures(bench, "parts", choices, [("0.5", "0.3")])
    assert looked_at == list(bench.test)
    assert (right["miou"], right["constants"], right["chosen_of"]) == (100, {"alpha": 0.5}, 7)
    assert (right["validation_miou"], right["validation_scenes"], right["scenes"]) == (12.5, 40, 2)
    assert difference["difference"] == pytest.approx(100 - wrong["miou"])
    assert difference["verdict"] == "better"


def test_combinations_hold_every_choice_once(bench: Workbench) -> None:
    settings = combined(replace(bench.base, exact=True), alpha=(0.1, 0.2), beta=(0.0, 0.5, 1.0))
    assert len(set(settings)) == 6
    assert all(setting.exact for setting in settings)
    assert {(setting.params.alpha, setting.params.beta) for setting in settings} == {
        (alpha, beta) for alpha in (0.1, 0.2) for beta in (0.0, 0.5, 1.0)
    }


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shifted_world_is_drawn_again_from_its_seed(name: str) -> None:
    first, again, other = SHIFTS[name](7, 128), SHIFTS[name](7, 128), SHIFTS[name](8, 128)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert first.rgb.shape == (128, 128, 3)
    assert first.labels.shape == (128, 128)
    assert first.rgb.dtype == first.labels.dtype == np.uint8
    assert first.labels.max() < len(CLASS_NAMES)
    assert (first.rgb != other.rgb).any()


def test_shifts_change_pictures_as_they_say_and_keep_the_truth() -> None:
    plain = make_scene(7, size_px=128)
    worlds = {name: SHIFTS[name](7, 128) for name in ("as_is", "other_hues", "night", "noise")}
    assert all((scene.labels == plain.labels).all() for scene in worlds.values())
    np.testing.assert_array_equal(worlds["as_is"].rgb, plain.rgb)
    assert worlds["night"].rgb.mean() == pytest.approx(0.3 * plain.rgb.mean(), rel=0.1)
    grain = worlds["noise"].rgb.astype(float) - plain.rgb
    assert 15 < grain.std() < 25


def test_other_hues_turns_colours_by_20_degrees_and_leaves_their_strength() -> None:
    plain, turned = make_scene(4, size_px=128).rgb, SHIFTS["other_hues"](4, 128).rgb
    before, after = rgb_to_hsv(plain / 255), rgb_to_hsv(turned / 255)
    vivid = before[..., 1] > 0.5
    assert vivid.mean() > 0.1
    turn = (after - before)[vivid][:, 0] % 1
    assert np.median(turn) * 360 == pytest.approx(20, abs=2)
    np.testing.assert_allclose(turned.max(2), plain.max(2), atol=3)


def test_things_from_the_air_are_smaller() -> None:
    def share_of_things(name: str) -> float:
        return float(np.mean([np.isin(SHIFTS[name](seed, 128).labels, GROUPS["things"]).mean() for seed in range(6)]))

    assert 0.02 < share_of_things("aerial") < share_of_things("as_is")


def test_the_knee_is_where_gains_end_and_mious_settle_near_the_limit_for_good() -> None:
    """More steps may do harm: here the best is the third, and the limit lies ten points below it."""
    assert knee([50.0, 60.05, 70.0, 69.95, 60.0]) == 2
    assert knee([50.0, 69.92, 70.0, 60.0]) == 1
    assert settled([50.0, 60.05, 70.0, 60.06, 59.95], 60.0) == 3
    assert settled([60.0, 60.0], 60.0) == 0
    assert settled([50.0, 51.0], 60.0) is None


def test_the_second_eigenvalue_of_two_states_is_known() -> None:
    """Leaving with 0.1 and 0.3: the eigenvalues are 1 and 1 - 0.4."""
    assert second_eigenvalue(torch.tensor([[0.9, 0.1], [0.3, 0.7]])) == pytest.approx(0.6)


def test_walks_are_timed_on_one_thread_and_threads_are_given_back(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def noted(compute: Any) -> tuple[Any, float]:
        threads.append(torch.get_num_threads())
        return compute(), 1.0

    monkeypatch.setattr(steps, "_timed", noted)
    monkeypatch.setattr(steps, "_spectra", lambda bench: iter(()))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    before = torch.get_num_threads()
    lines = list(steps.exact(bench))
    assert {line["cpu_ms"] for line in lines} == {1.0, 2.0}
    assert threads[0] == 1
    assert threads[-1] == before


def test_the_effective_rank_counts_equal_directions() -> None:
    assert effective_rank(torch.eye(5)[:, :3]) == pytest.approx(3)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1, abs=1e-4)
    shares = np.array([0.75, 0.25])
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum())
    )


def test_a_world_of_fewer_things_is_named_with_its_own_words(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies: list[tuple[str, ...]] = []

    class Noted(SceneSolver):
        def labels(self, setting: Setting) -> np.ndarray:
            vocabularies.append(self.world.bank.class_names)
            assert self.scene.labels.max() < len(vocabularies[-1])
            return self.scene.labels

    monkeypatch.setattr(questions, "SceneSolver", Noted)
    lines = list(questions.things(bench))
    assert [line["of"] for line in lines[::3]] == [f"{number} things" for number in questions.THINGS]
    assert {len(names) for names in vocabularies} == {len(GROUPS["stuff"]) + number for number in questions.THINGS}
    assert vocabularies[-1] == CLASS_NAMES
    assert {line["miou"] for line in lines if "miou" in line} == {100}


def test_groups_cover_all_classes_and_their_entropies_average_to_those_of_heads(world: World, bench: Workbench) -> None:
    assert sorted(GROUPS["stuff"] + GROUPS["things"]) == list(range(len(CLASS_NAMES)))
    scene = make_scene(SEEDS["validation"][3], size_px=128, close_up=False)
    solver = SceneSolver(world, scene, bench.observer, "groups")
    found = group_entropies(solver, bench.base)
    share = np.isin(scene.labels[2::4, 2::4], GROUPS["things"]).mean()
    assert 0 < share < 1
    whole = share * found["things"] + (1 - share) * found["stuff"]
    expected = head_entropies(solver.affinity(bench.base), solver.seeds(bench.base), self_loop=False)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_changes_what_it_names_and_its_choice_is_read_back(bench: Workbench, name: str) -> None:
    for changes in CANDIDATES[name]:
        setting = changed_setting(bench.base, changes)
        assert set(setting.changes(bench.base.params)) <= set(changes)
        assert better._change(Choice(setting, 1.0, 1, 1), CANDIDATES[name]) == changes


def test_the_names_of_the_command_are_the_experiments() -> None:
    assert tuple(EXPERIMENTS) == cli_experiments.NAMES
    assert list(DRAWINGS) == [f"experiment_{name}" for name in EXPERIMENTS]


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(UsageError, match="NAME is weather, expected of: parts, heads"):
        CliRunner().invoke(cli.app, ["experiment", "parts", "weather"], catch_exceptions=False)


def test_figures_only_change_with_the_scenes_asked_for() -> None:
    def figures(*words: str) -> list[dict[str, Any]]:
        ended = CliRunner().invoke(
            cli.app, ["experiment", "groups", "--json", "--limit", "2", *words], catch_exceptions=False
        )
        assert ended.exit_code == 0
        return [json.loads(line) for line in ended.stdout.splitlines()]

    first, again, other = figures(), figures(), figures("--seed-offset", "2")
    assert first == again
    assert first != other
    assert {line["bench"] for line in first} == {"experiment_groups"}


@pytest.fixture
def few_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families of two: what is tested is that experiments run, not what they find."""
    choose = Workbench.choose
    shorter = {"few": 2}

    def choose_of_few(self: Workbench, families: Any, scenes: int | None = None) -> Any:
        return choose(self, {name: family[: shorter["few"]] for name, family in families.items()}, scenes)

    monkeypatch.setattr(Workbench, "choose", choose_of_few)


@pytest.mark.slow
@pytest.mark.usefixtures("few_choices")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_gives_whole_lines_and_a_picture(name: str, bench: Workbench, tmp_path: Path) -> None:
    records = list(EXPERIMENTS[name](bench))
    lines = [json.loads(json.dumps(record, allow_nan=False)) for record in records]
    assert {line["bench"] for line in lines} == {f"experiment_{name}"}
    assert all(line["scenes"] >= 1 for line in lines)
    for line in lines:
        if "miou" in line or "difference" in line:
            low, high = line["interval"]
            assert low <= line.get("miou", line.get("difference")) <= high
    draw_experiments(lines, tmp_path)
    assert (tmp_path / f"experiment_{name}.png").read_bytes()[:4] == PNG
