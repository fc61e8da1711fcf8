"""The method's own parts as graphs, timed through ONNX Runtime: dense, pooled and linear in turns."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_bench.measure.cost import METHOD_PARTS, graph_cost, method_specs
from nerve_bench.measure.method_stages import FORMS, TOKEN_PX, Form, Problem, method_stages, seeded_inputs
from nerve_export.graphs.export import export_graph
from nerve_runtime.backends.ort import import_onnxruntime

OPSET = 23
LONGEST_SIDE_PX = 512
"""Beyond it the dense form's affinities do not fit: 3.4 GB at 768 px, several times over while they are made."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class OpenedForm:
    """The three graphs of a form, opened, with their inputs."""

    form: Form
    problem: Problem
    sessions: dict[str, Any]
    costs: dict[str, dict[str, Any]]
    inputs: Arrays

    def run(self) -> tuple[NDArray[Any], dict[str, float]]:
        """P (c,p), and the milliseconds of each part."""
        known, times = dict(self.inputs), {}
        for part, session in self.sessions.items():
            given = {value.name: known[value.name] for value in session.get_inputs()}
            names = [value.name for value in session.get_outputs()]
            started = time.perf_counter()
            outputs = session.run(names, given)
            times[part] = 1000 * (time.perf_counter() - started)
            known |= dict(zip(names, outputs, strict=True))
        return known["label_scores"], times


def open_form(form: Form, problem: Problem, folder: Path, threads: int) -> OpenedForm:
    """Export the parts of a form into a folder and open them."""
    library, stages = import_onnxruntime(), method_stages(form, problem)
    sessions, costs = {}, {}
    for part, module in zip(METHOD_PARTS, (stages.structure, stages.mix, stages.walk), strict=True):
        path = folder / f"{form}_{problem.side}_{part}.onnx"
        model, _ = export_graph(module, method_specs(form, problem)[part], OPSET, {}, path)
        cost = graph_cost(model)
        costs[part] = {
            "gmac": cost.gmac,
            "activation_bytes": cost.activation_bytes,
            "peak_activation_bytes": cost.peak_activation_bytes,
        }
        options = library.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        sessions[part] = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return OpenedForm(form, problem, sessions, costs, _arrays(problem))


def _arrays(problem: Problem) -> Arrays:
    inputs, params = seeded_inputs(problem), problem.params("pooled")
    arrays: Arrays = {"seed_scores": inputs.G.numpy(), "q": inputs.q.numpy(), "k": inputs.k.numpy()}
    scalars = ("alpha", "beta", "head_temperature")
    return arrays | {name: np.array(getattr(params, name), np.float32) for name in scalars}


def measure_method(
    sizes_px: Sequence[int], turns: int, threads: int, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Yield per size, form and part the median of `turns` runs after one of warm-up, and what the graph counts."""
    for side_px in progress(sizes_px, "timing the method's graphs"):
        problem = Problem(side_px // TOKEN_PX)
        with tempfile.TemporaryDirectory(prefix="nerve-cost-") as folder:
            opened = [open_form(form, problem, Path(folder), threads) for form in FORMS]
            times: dict[tuple[Form, str], list[float]] = {}
            for turn in range(turns + 1):
                for form in opened:
                    _, measured = form.run()
                    if turn:
                        for part, milliseconds in {**measured, "all": sum(measured.values())}.items():
                            times.setdefault((form.form, part), []).append(milliseconds)
            for form in opened:
                yield from (_record(form, side_px, part, times[form.form, part]) for part in (*METHOD_PARTS, "all"))


def _record(opened: OpenedForm, side_px: int, part: str, measured: list[float]) -> dict[str, Any]:
    p50, p90 = np.percentile(measured, (50, 90))
    return {
        "bench": "method_ms",
        "runner": "ort",
        "form": opened.form,
        "part": part,
        "side_px": side_px,
        "tokens": opened.problem.tokens,
        "pooled_keys": opened.problem.cells**2 if opened.form == "pooled" else None,
        "p50_ms": round(float(p50), 2),
        "p90_ms": round(float(p90), 2),
        "n": len(measured),
        **opened.costs.get(part, {}),
    }
