"""The experiments by name, in the order of the report."""

from collections.abc import Callable, Iterator

from nerve_bench.experiments.better import better
from nerve_bench.experiments.paper import affinity, heads, layers, parts, sweep
from nerve_bench.experiments.providers import providers
from nerve_bench.experiments.questions import adaptive, groups, things, transfer
from nerve_bench.experiments.solo import solo
from nerve_bench.experiments.steps import exact, steps
from nerve_bench.experiments.tables import Record
from nerve_bench.experiments.workbench import Workbench

Experiment = Callable[[Workbench], Iterator[Record]]

EXPERIMENTS: dict[str, Experiment] = {
    "parts": parts,
    "heads": heads,
    "steps": steps,
    "affinity": affinity,
    "sweep": sweep,
    "layers": layers,
    "providers": providers,
    "adaptive": adaptive,
    "groups": groups,
    "transfer": transfer,
    "things": things,
    "better": better,
    "exact": exact,
    "solo": solo,
}
"""Each takes a workbench and yields its records."""
