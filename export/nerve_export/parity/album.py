"""A comparison with pictures and polygraphy's figures: what `nerve-build parity` reports of one bundle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_export.graphs.stages import MERGED, TABLE
from nerve_export.parity.compare import compare_bundle
from nerve_export.parity.measures import CHAIN, STAGE_ORDER, ParityReport, Tap
from nerve_export.parity.pictures import differences, encode_png, enlarged, heat_map, histogram, label_colors
from nerve_export.parity.runners import (
    ENGINE_LIBRARIES,
    POLYGRAPHY_PREFIX,
    engine_stages,
    import_polygraphy,
    open_runner,
)
from nerve_export.parity.taps import TapFolder
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.labels import cast_labels

PICTURE_PX = 256
"""Least length of a picture's shorter side; smaller grids are enlarged by whole pixels."""
ERROR_TAPS = {
    ("scores", "seed_scores"): "G, seed scores",
    ("mix", "affinity"): "S, mixed affinity",
    ("walk", "label_scores"): "P, label scores",
}
"""Tensors whose errors are drawn, of the first frame, each stage on the reference's own inputs."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a report: file name without ending, what it shows, and its PNG bytes."""

    name: str
    caption: str
    content: bytes


@dataclass(frozen=True, slots=True)
class PolygraphyResult:
    """What polygraphy's comparator measured at a tap, and whether the largest difference passes."""

    max_abs: float
    mean_abs: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """One bundle compared.

    Attributes:
        bundle: name of its folder.
        facts: preset, precision, size and versions, as text.
        report: all taps.
        polygraphy: polygraphy's figures by stage and tensor, of the first frame.
        layers: names of the layers that q0 k0, q1 k1 ... belong to.
        pictures: in the order to show them.
        engines: path in the bundle of each engine that ran, by stage; empty for graphs.
    """

    bundle: str
    facts: Mapping[str, str]
    report: ParityReport
    polygraphy: Mapping[tuple[str, str], PolygraphyResult]
    layers: tuple[str, ...]
    pictures: tuple[Picture, ...]
    engines: Mapping[StageName, str]


def illustrated_comparison(bundle: Path, taps_folder: Path, runner: str) -> Comparison:
    """Compare a bundle as `compare_bundle` does and keep what a report shows; needs no torch.

    Args:
        bundle: an installed bundle.
        taps_folder: the reference's taps.
        runner: see `open_runner`; those of polygraphy add its own figures.

    Raises:
        NerveError: as `compare_bundle`.
    """
    manifest = load_manifest(bundle)
    reference = TapFolder.open(taps_folder)
    album = Album(reference, with_polygraphy=runner.startswith(POLYGRAPHY_PREFIX))
    opened = open_runner(runner, bundle, manifest)
    stages = comparable_stages(manifest, runner)
    report = compare_bundle(bundle, manifest, taps_folder, opened, stages, album)
    size, grid = (" x ".join(map(str, sides)) for sides in (manifest.geometry.working_hw, manifest.geometry.grid_hw))
    seed = manifest.random_seed
    facts = {
        "compared": "all stages" if stages is None else ", ".join(stages),
        "preset": manifest.preset,
        "precision": manifest.precision,
        "opset": str(manifest.opset),
        "size": f"{size} px, {grid} tokens, {manifest.geometry.heads} heads",
        "weights": "of the preset" if seed is None else f"random, seed {seed}: labels mean nothing",
        "run by": report.backend,
        "built with": ", ".join(f"{name} {version}" for name, version in sorted(manifest.tool_versions.items())),
    }
    return Comparison(
        bundle.resolve().name, facts, report, album.polygraphy, reference.facts.layers, album.in_order(), opened.engines
    )


def comparable_stages(manifest: Manifest, runner: str) -> list[StageName] | None:
    """The stages that a runner can run, None for all.

    Engines may be built for some stages only, and ONNX Runtime's processor has no convolution in bf16.
    """
    backend = runner.removeprefix(POLYGRAPHY_PREFIX)
    if backend in ENGINE_LIBRARIES:
        return engine_stages(manifest, backend)
    if manifest.precision != "bf16" or backend != "ort":
        return None
    return [name for name in STAGE_ORDER if TABLE[name].network is None and name != MERGED]


@dataclass
class Album:
    """An observer of a comparison that draws labels and errors of the first frame.

    State: the pictures and polygraphy's figures so far.
    """

    reference: TapFolder
    with_polygraphy: bool
    pictures: list[Picture] = field(default_factory=list)
    polygraphy: dict[tuple[str, str], PolygraphyResult] = field(default_factory=dict)

    def __call__(self, tap: Tap, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        """Draw what a tap of the first or last frame shows."""
        if tap.stage == CHAIN and expected.dtype == np.uint8:
            self._draw_labels(tap, expected, cast_labels(actual, expected.dtype))
            return
        if tap.frame > 0 or expected.size != actual.size:
            return
        actual = actual.reshape(expected.shape)
        if (tap.stage, tap.tensor) in ERROR_TAPS:
            self._draw_errors(tap, expected, actual)
        if self.with_polygraphy and tap.max_abs_limit is not None:
            self.polygraphy[tap.stage, tap.tensor] = compare_with_polygraphy(tap.max_abs_limit, expected, actual)

    def in_order(self) -> tuple[Picture, ...]:
        """Labels first, which anybody can read, then errors."""
        return tuple(sorted(self.pictures, key=lambda picture: not picture.name.startswith("labels")))

    def _draw_labels(self, tap: Tap, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        last = self.reference.facts.chain_frames - 1
        if tap.frame not in (0, last):
            return
        with self.reference.chain(tap.frame) as tensors:
            frame = tensors["frame"][0]
        kind = "first frame, cold" if tap.frame == 0 else f"frame {tap.frame}, warm"
        name = tap.tensor
        self._add(f"{name}_frame", f"{kind}: the frame", frame)
        self._add(f"{name}_reference", f"{kind}: labels of the reference", label_colors(expected))
        self._add(f"{name}_bundle", f"{kind}: labels of the bundle", label_colors(actual))
        count = int((expected != actual).sum())
        where = differences(frame, expected, actual)
        self._add(f"{name}_differ", f"{kind}: where they differ, {count} of {actual.size} pixels", where)

    def _draw_errors(self, tap: Tap, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        limit = tap.max_abs_limit or tap.max_abs
        title = ERROR_TAPS[tap.stage, tap.tensor]
        errors = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
        grid_hw = self.reference.facts.grid_hw
        by_token = errors.max(0) if expected.shape[-1] == grid_hw[0] * grid_hw[1] else _largest_by_token(errors)
        caption = f"{title}: largest error of each token; dark 1e-9, pale {limit:.1g}, the limit, red beyond it"
        self._add(f"{tap.tensor}_errors", caption, heat_map(by_token.reshape(grid_hw), limit))
        caption = f"{title}: how many elements have which error, 1e-9 to 1; the red line is the limit, {limit:.1g}"
        self._add(f"{tap.tensor}_histogram", caption, histogram(errors, limit))

    def _add(self, name: str, caption: str, rgb: NDArray[np.uint8]) -> None:
        least_px = 0 if name.endswith("_histogram") else PICTURE_PX
        self.pictures.append(Picture(name, caption, encode_png(enlarged(rgb, max(1, least_px)))))


def _largest_by_token(errors: NDArray[Any]) -> NDArray[Any]:
    """Of S (p,m), or of its two factors (2,p,f), the largest error in each token's row."""
    by_row = errors.max(-1)
    return by_row.max(0) if by_row.ndim > 1 else by_row


def compare_with_polygraphy(limit: float, expected: NDArray[Any], actual: NDArray[Any]) -> PolygraphyResult:
    """Let polygraphy's comparator judge two arrays by their largest absolute difference.

    Raises:
        CompatibilityError: polygraphy is not installed.
    """
    import_polygraphy(tensorrt_rtx=False)
    from polygraphy import comparator

    results = comparator.RunResults()
    results.add([{"tensor": expected.astype(np.float64)}], runner_name="reference")
    results.add([{"tensor": actual.astype(np.float64)}], runner_name="bundle")
    # polygraphy 0.60 drops the older name; our floor, 0.49, lacks the newer one.
    simple = getattr(comparator, "SimpleCompareFunc", None) or comparator.CompareFunc.simple
    judge = simple(check_error_stat="max", atol=limit, rtol=0.0)
    measured: dict[str, Any] = {}

    def record(first: Any, second: Any) -> Any:
        # What the comparator returns differs between versions; what `judge` returns does not.
        measured.update(judge(first, second))
        return measured

    passed = bool(comparator.Comparator.compare_accuracy(results, compare_func=record))
    result = measured["tensor"]
    return PolygraphyResult(float(result.max_absdiff), float(result.mean_absdiff), passed)
