"""Better than the paper: one change at a time to a paper-like setting, kept only if it wins on test scenes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from nerve_bench.experiments.paper import combined
from nerve_bench.experiments.solver import Setting
from nerve_bench.experiments.tables import Record, difference_record, figure_record
from nerve_bench.experiments.workbench import Choice, Family, Workbench, choice_notes

PAPER_LIKE: dict[str, Any] = {
    "entropy": "plain",
    "self_loop": True,
    "key_norm": False,
    "sharpen": 1.0,
    "row_threshold": 0.0,
    "steps": 20,
}
"""The paper's form of head weights, the self-loop kept, nothing done to keys or rows, 20 steps."""
WALKS = {"alpha": (0.95, 0.98, 0.995), "beta": (0.02, 0.06, 0.15, 0.3), "head_temperature": (0.01, 0.1)}
"""What every variant may choose for itself on validation scenes; T_H in units of entropy."""
DEVIATIONS = (0.2, 1.0)
"""T_H in deviations over heads."""
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "self-loop removed": [{"self_loop": False}],
    "key_norm": [{"key_norm": True}],
    "sharpen": [{"sharpen": 2.0}, {"sharpen": 3.0}, {"sharpen": 4.0}],
    "zscore": [{"entropy": "zscore", "head_temperature": deviation} for deviation in DEVIATIONS],
    "beta per pixel": [{"beta_mode": "per_pixel", "beta_temperature": value} for value in (0.05, 0.15)],
    "exact walk": [{"exact": True}],
    "guided read-out": [{"colour_width": value} for value in (0.03, 0.06, 0.12)],
}
"""Changes by name, with the values that each may choose from."""
OF_SETTING = ("beta_mode", "beta_temperature", "exact", "colour_width")
FULL = "all that won on validation"


def better(bench: Workbench) -> Iterator[Record]:
    """Each candidate alone against the paper-like setting, then all that won on validation scenes together.

    The last lines leave each of those out again: a change that the rest makes superfluous shows there.
    """
    paper = replace(bench.base, params=replace(bench.world.params, **PAPER_LIKE))
    families: dict[str, Family] = {"paper-like": combined(paper, **WALKS)}
    families["paper-like, linear"] = combined(replace(paper, params=replace(paper.params, affinity="linear")), **WALKS)
    families |= {name: [*_family(paper, options)] for name, options in CANDIDATES.items()}
    choices = bench.choose(families)
    bar = choices["paper-like"].validation_miou or 0.0
    winners = {
        name: _change(choices[name], CANDIDATES[name])
        for name in CANDIDATES
        if (choices[name].validation_miou or 0.0) > bar
    }
    together: dict[str, Family] = {FULL: [*_family(paper, [_merged(winners)])]}
    together |= {
        f"without {name}": [*_family(paper, [_merged({other: winners[other] for other in winners if other != name})])]
        for name in winners
    }
    choices |= bench.choose(together)
    yield from _verdicts(bench, choices, list(winners))


def _verdicts(bench: Workbench, choices: dict[str, Choice], winners: list[str]) -> Iterator[Record]:
    settings = {name: choice.setting for name, choice in choices.items()} | {"preset": bench.base}
    tables = bench.rate(settings, bench.test, "better: test scenes")
    for name, choice in choices.items():
        yield figure_record("better", name, tables, **choice_notes(choice, bench))
    yield figure_record("better", "preset", tables)
    for name in CANDIDATES:
        record = difference_record("better", name, "paper-like", tables, won_on_validation=name in winners)
        yield record | {"kept": name in winners and record["verdict"] == "better"}
    for name in ("paper-like, linear", "preset", FULL):
        yield difference_record("better", name, "paper-like", tables)
    for name in winners:
        yield difference_record("better", FULL, f"without {name}", tables)
    yield difference_record("better", FULL, "preset", tables)


def changed_setting(base: Setting, changes: dict[str, Any]) -> Setting:
    """A setting with changes, be they constants of the method or not."""
    beside = {name: value for name, value in changes.items() if name in OF_SETTING}
    constants = {name: value for name, value in changes.items() if name not in OF_SETTING}
    return replace(base, params=replace(base.params, **constants), **beside)


def _family(paper: Setting, options: Sequence[dict[str, Any]]) -> Iterator[Setting]:
    """The paper-like setting with each of the options, each with every choice of the walk's constants."""
    for changes in options:
        free = {name: values for name, values in WALKS.items() if name not in changes}
        yield from combined(changed_setting(paper, changes), **free)


def _change(choice: Choice, options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Which of the options a choice took."""
    setting = choice.setting
    return next(changes for changes in options if changed_setting(setting, changes) == setting)


def _merged(winners: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for changes in winners.values() for name, value in changes.items()}
