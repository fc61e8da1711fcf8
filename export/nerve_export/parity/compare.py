"""Reference against bundle: each graph alone on the reference's inputs, then all of them in a row, cold and warm.

Two steps, in processes of their own where memory is short: `reference_taps` runs torch and writes a folder;
`compare_bundle` reads it and needs no torch. It opens one stage at a time.
"""

import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nerve_export.graphs.stages import TABLE, Tolerance
from nerve_export.parity.frames import FRAMES
from nerve_export.parity.measures import CHAIN, STAGE_ORDER, ParityReport, Tap, compared, compared_inner
from nerve_export.parity.reference import reference_taps
from nerve_export.parity.runners import Run, Runner, in_a_run_of_one, one_run, open_runner
from nerve_export.parity.taps import MARGIN, TapFolder, Tensors
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import READOUT_STAGES, StageName, StageSpec
from nerve_runtime.errors import CompatibilityError

if TYPE_CHECKING:
    from nerve_ref.params import NerveParams
    from nerve_ref.weights.networks import Models

DOUBT = {"fp32": 2e-4, "fp16": 0.02, "bf16": 0.1}
"""End to end a label counts where the reference's best class leads the next by more than this probability.

Twice the error that rounding makes in P: where the two are that close, either label is right. With true
weights few pixels are left out, with random ones many.
"""
CHAIN_SCORES: tuple[StageName, ...] = ("scores", "attention", "mix", "walk", "walk_warm")
"""Stages that the chain runs before its end, the read-out that is the bundle's default."""
CHAIN_EXPECTED = ("label_scores", "labels", MARGIN)
"""Results of the reference for a frame of the chain; the other tensors are inputs."""
ONCE: frozenset[StageName] = frozenset({"attention", "mix", "walk"})
"""Stages that only the keyframe of the chain runs."""
ONE_TOWER = "patch_features"
"""What stage `attention` gives stage `scores` where CLIP's tower says both; each frame of the chain has its own."""
Observer = Callable[[Tap, NDArray[Any], NDArray[Any]], None]
"""Called with each comparison, the expected and the actual tensor, for instance to draw pictures."""


def check_parity(
    folder: Path,
    manifest: Manifest,
    models: "Models",
    params: "NerveParams",
    classes: str,
    backend: str = "ort",
    frames: int = FRAMES,
) -> ParityReport:
    """Compare a bundle with the reference, both in this process.

    Args:
        folder: the bundle, installed or staged.
        manifest: its manifest.
        models: the reference's networks.
        params: the constants that the bundle was built with.
        classes: class list to segment with.
        backend: what runs the bundle; see `open_runner`.
        frames: frames to compare.

    Raises:
        NerveError: the back end cannot open or run a stage.
    """
    with tempfile.TemporaryDirectory(prefix="nerve-parity-") as taps:
        reference_taps(models, params, classes, frames, Path(taps), manifest.geometry.max_batch)
        return compare_bundle(folder, manifest, Path(taps), backend)


def compare_bundle(
    bundle: Path,
    manifest: Manifest,
    taps_folder: Path,
    runner: str | Runner = "ort",
    stages: Collection[str] | None = None,
    observer: Observer | None = None,
) -> ParityReport:
    """Compare a bundle with what `reference_taps` wrote; needs no torch and holds one stage in memory at a time.

    Inner tensors are compared on the first frame alone: they show where a stage goes wrong;
    its outputs show whether it does.

    Args:
        bundle: the bundle, installed or staged.
        manifest: its manifest.
        taps_folder: the reference's taps.
        runner: what runs the stages; see `open_runner`.
        stages: only these; the chain needs all of its stages.
        observer: called at each comparison.

    Raises:
        NerveError: the taps or a stage cannot be opened, or a stage cannot run.
    """
    opened = open_runner(runner, bundle, manifest) if isinstance(runner, str) else runner
    return _Comparison(opened, TapFolder.open(taps_folder), stages, observer).report()


class _Comparison:
    """State: the taps so far, and what the stages made of the short video so far."""

    def __init__(
        self, runner: Runner, reference: TapFolder, stages: Collection[str] | None, observer: Observer | None
    ) -> None:
        self.runner = runner
        self.reference = reference
        self.precision = runner.manifest.precision
        self.stages = [name for name in in_order(runner.manifest) if stages is None or name in stages]
        self.observer = observer
        self.taps: list[Tap] = []
        self.chain: list[dict[str, NDArray[Any]]] | None = None
        self.chain_stages = chain_stages(runner.manifest)
        if set(self.chain_stages) <= set(self.stages):
            self.chain = [self._chain_inputs(index) for index in range(reference.facts.chain_frames)]

    def report(self) -> ParityReport:
        """Go through the stages, in the order in which a frame passes them."""
        for stage in self.stages:
            self._compare_outputs(stage)
            self._compare_inner(stage)
        if self.chain is not None:
            self._compare_chain(self.chain)
        return ParityReport(self.runner.describe(), tuple(self.taps))

    def _compare_outputs(self, stage: StageName) -> None:
        # A function of its own: its locals hold the session, 5 GB at true size, and are gone before the next opens.
        spec, batched = self.runner.record(stage).spec, self.runner.manifest.geometry.batches(stage)
        with self.runner.open(stage) as run:
            if batched:
                self._compare_items(stage, spec, run)
                run = in_a_run_of_one(run, spec)
            self._compare_alone(stage, run)
            if self.chain is not None and stage in self.chain_stages:
                self._advance_chain(self.chain, stage, run)

    def _compare_alone(self, stage: StageName, run: Run) -> None:
        """A stage on the reference's own inputs, so that an error shows in the stage that makes it."""
        if stage == "text":
            with self.reference.text() as tensors:
                self._add(stage, 0, tensors, run(tensors))
            return
        for index in range(self.reference.facts.frames):
            with self.reference.frame(index) as tensors:
                self._add(stage, index, tensors, run(tensors))

    def _compare_items(self, stage: StageName, spec: StageSpec, run: Run) -> None:
        """Frames of a full run, each with a vocabulary of its own; they are numbered on from the frames alone."""
        items = range(min(self.reference.facts.items, self.runner.manifest.geometry.max_batch))
        if not items:
            return
        with ExitStack() as stack:
            outputs = run(one_run([stack.enter_context(self.reference.item(index)) for index in items], spec))
        for index in items:
            with self.reference.item(index) as tensors:
                actual = {name: array[index] for name, array in outputs.items()}
                self._add(stage, self.reference.facts.frames + index, tensors, actual)

    def _compare_inner(self, stage: StageName) -> None:
        with self.runner.open_inner(stage) as run:
            if run is None:
                return
            with self.reference.text() if stage == "text" else self.reference.frame(0) as tensors:
                batched = self.runner.manifest.geometry.batches(stage)
                given = one_run([tensors], self.runner.record(stage).spec) if batched else tensors
                self._add(stage, 0, tensors, run(given), inner=True)

    def _add(self, stage: StageName, frame: int, expected: Tensors, actual: Tensors, *, inner: bool = False) -> None:
        tolerance = stage_tolerance(stage, self.precision)
        for name, array in actual.items():
            target = expected_tensor(expected, stage, name)
            if inner:
                tap = compared_inner(stage, name, frame, target, array, tolerance)
            elif stage == "frame":
                undecided, slack = self._undecided(expected[MARGIN]), self._slack()
                tap = compared(stage, name, frame, target, array, tolerance, undecided, slack)
            else:
                tap = compared(stage, name, frame, target, array, tolerance)
            self._keep(tap, target, array)

    def _keep(self, tap: Tap, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        self.taps.append(tap)
        if self.observer is not None:
            self.observer(tap, expected, actual)

    def _undecided(self, margin: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Pixels whose label rounding alone could turn, end to end."""
        return np.asarray(margin <= DOUBT[self.precision])

    def _slack(self) -> int:
        """Levels of 255 that rounding alone may move a confidence by, end to end: one, and half the doubt."""
        return 1 + round(DOUBT[self.precision] / 2 * 255)

    def _chain_inputs(self, index: int) -> dict[str, NDArray[Any]]:
        with self.reference.chain(index) as tensors:
            return {name: tensors[name] for name in tensors if name not in CHAIN_EXPECTED}

    def _advance_chain(self, chain: list[dict[str, NDArray[Any]]], stage: StageName, run: Run) -> None:
        """Feed a stage with what the stages before it gave: a keyframe, then warm frames."""
        if stage == "attention" and ONE_TOWER in self.runner.manifest.stages[stage].spec.names[1]:
            for frame in chain[1:]:
                frame[ONE_TOWER] = run(frame)[ONE_TOWER]
        if stage in ONCE:
            made = dict(run(chain[0]))
            chain[0] |= made
            # The keyframe's affinities serve the frames after it; its scores do not.
            for frame in chain[1:]:
                frame |= {name: array for name, array in made.items() if name not in ("label_scores", ONE_TOWER)}
            return
        if stage != "walk_warm":
            for frame in chain:
                frame |= run(frame)
            return
        for previous, frame in pairwise(chain):
            frame |= run(frame | {"previous_scores": previous["label_scores"]})

    def _compare_chain(self, chain: list[dict[str, NDArray[Any]]]) -> None:
        """Scores as closely as the networks give G, which every stage after them averages; labels as in one graph."""
        limits = {name: stage_tolerance(name, self.precision) for name in ("scores", "frame")}
        for index, frame in enumerate(chain):
            with self.reference.chain(index) as tensors:
                scores, labels = tensors["label_scores"], tensors["labels"]
                undecided = self._undecided(tensors[MARGIN])
            kind = "cold" if index == 0 else "warm"
            actual = frame["label_scores"]
            tap = compared(CHAIN, f"label_scores_{kind}", index, scores, actual, limits["scores"])
            self._keep(tap, scores, actual)
            tap = compared(CHAIN, f"labels_{kind}", index, labels, frame["labels"], limits["frame"], undecided)
            self._keep(tap, labels, frame["labels"])


def chain_stages(manifest: Manifest) -> tuple[StageName, ...]:
    """The stages that a frame of the short video passes, the read-out of the manifest's method last."""
    return (*CHAIN_SCORES, READOUT_STAGES[manifest.method.readout])


def in_order(manifest: Manifest) -> list[StageName]:
    """The stages of a bundle, each after those whose outputs it takes: `attention` first where `scores` takes features."""
    names = [name for name in STAGE_ORDER if name in manifest.stages]
    if "attention" in names and ONE_TOWER in manifest.stages["scores"].spec.names[0]:
        names.remove("attention")
        names.insert(names.index("scores"), "attention")
    return names


def stage_tolerance(stage: StageName, precision: str) -> Tolerance:
    """The tolerance of a stage in a precision.

    Raises:
        CompatibilityError: the table has none: this precision cannot be compared.
    """
    tolerance = TABLE[stage].tolerance.get(precision)
    if tolerance is None:
        raise CompatibilityError(
            f"stage {stage!r} has no tolerance for {precision}, only for {', '.join(TABLE[stage].tolerance)}; "
            "compare a bundle of one of these precisions"
        )
    return tolerance


def expected_tensor(tensors: Tensors, stage: str, name: str) -> NDArray[Any]:
    """The reference's tensor for an output of a stage; the warm walk has its own `label_scores`.

    Raises:
        CompatibilityError: the reference has no tensor of this name.
    """
    for key in (f"{stage}.{name}", name):
        if key in tensors:
            return tensors[key]
    raise CompatibilityError(
        f"stage {stage!r} gives {name!r}, which the reference does not have; build bundle and reference from one version"
    )
