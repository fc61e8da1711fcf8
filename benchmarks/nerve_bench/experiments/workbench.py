"""What every experiment works with: scenes of one world or a shifted one, settings rated on them, choices made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nerve_bench.experiments.shifts import SHIFTS
from nerve_bench.experiments.solver import SceneSolver, Setting
from nerve_bench.experiments.sources import Observer
from nerve_bench.experiments.tables import (
    Counts,
    Record,
    Tables,
    confusion_counts,
    difference_record,
    figure_record,
)
from nerve_bench.measure.accuracy import World
from nerve_bench.world import CLASS_NAMES

Family = Sequence[Setting]
"""Settings of one kind that differ in constants; the best one on validation scenes stands for the kind."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The member of a family that was best on validation scenes.

    Attributes:
        setting: the member.
        validation_miou: its figure there, percent; None where nothing was chosen.
        candidates: of how many it was chosen.
        scenes: on how many scenes.
    """

    setting: Setting
    validation_miou: float | None
    candidates: int
    scenes: int


@dataclass(frozen=True, slots=True)
class Workbench:
    """Scenes, networks and progress bars of a run of experiments.

    Attributes:
        world: networks, vocabulary, constants of the preset.
        observer: keeps what the networks said.
        validation: seeds of the scenes on which constants are chosen.
        test: seeds of the scenes on which figures are taken.
        progress: makes progress bars.
        shift: which world; see `shifts.SHIFTS`.
    """

    world: World
    observer: Observer
    validation: range
    test: range
    progress: Callable[..., Any]
    shift: str = field(default="as_is")

    @property
    def base(self) -> Setting:
        """The preset as it is."""
        return Setting(self.world.params)

    def changed(self, **constants: Any) -> Setting:
        """The preset with other constants."""
        return Setting(replace(self.world.params, **constants))

    def solvers(self, seeds: range, description: str) -> Iterator[SceneSolver]:
        """One solver per scene, under a progress bar."""
        size_px = self.world.params.size_hw[0]
        for seed in self.progress(seeds, description):
            scene = SHIFTS[self.shift](seed, size_px)
            yield SceneSolver(self.world, scene, self.observer, (self.shift, seed))

    def rate(self, settings: Mapping[str, Setting], seeds: range, description: str) -> Tables:
        """Confusion counts of every setting on every scene."""
        counts: dict[str, list[Counts]] = {name: [] for name in settings}
        for solver in self.solvers(seeds, description):
            for name, setting in settings.items():
                truth = solver.scene.labels
                counts[name].append(confusion_counts(truth, solver.labels(setting), len(CLASS_NAMES)))
        return Tables({name: np.stack(stack) for name, stack in counts.items()})

    def choose(self, families: Mapping[str, Family], scenes: int | None = None) -> dict[str, Choice]:
        """The best member of each family on validation scenes, all families on the same scenes.

        Args:
            families: by name.
            scenes: on so many scenes only; all by default.
        """
        seeds = self.validation[:scenes]
        members = {f"{name} {index}": item for name, family in families.items() for index, item in enumerate(family)}
        tables = self.rate(members, seeds, f"choosing constants, {len(members)} settings")
        found = {}
        for name, family in families.items():
            best = tables.best(f"{name} {index}" for index in range(len(family)))
            found[name] = Choice(members[best], round(tables.miou(best), 3), len(family), len(seeds))
        return found


def chosen_figures(
    bench: Workbench,
    experiment: str,
    choices: Mapping[str, Choice],
    pairs: Iterable[tuple[str, str]],
    test_scenes: int | None = None,
) -> Iterator[Record]:
    """Rate chosen settings on test scenes: a line each, then a line for each pair (first minus second)."""
    settings = {name: choice.setting for name, choice in choices.items()}
    tables = bench.rate(settings, bench.test[:test_scenes], f"{experiment}: test scenes")
    for name, choice in choices.items():
        yield figure_record(experiment, name, tables, **choice_notes(choice, bench))
    for name, other in pairs:
        yield difference_record(experiment, name, other, tables)


def choice_notes(choice: Choice, bench: Workbench) -> Record:
    """How a setting was chosen, for its line."""
    return {
        "constants": choice.setting.changes(bench.world.params),
        "chosen_of": choice.candidates,
        "validation_miou": choice.validation_miou,
        "validation_scenes": choice.scenes,
    }


def as_is(setting: Setting) -> Choice:
    """A setting that nobody had to choose."""
    return Choice(setting, None, 1, 0)
