"""A certificate of a bundle on one machine: every back end found, compared, timed and measured; what could not be, and why.

Each part ends as passed, failed, measured or not run. A part is not run where a library, a GPU, weights or pictures are missing:
that is said, and is no failure. Whatever a part that runs cannot do is one.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_bench.measure.memory import measure_memory
from nerve_bench.measure.openvino import AGREEMENT_FLOOR_PERCENT, OpenVinoBackend, label_agreement
from nerve_bench.report.certificate import Finding, State
from nerve_export.cli.extras import REFERENCE, is_installed
from nerve_export.cli.parity import record_engine_parity
from nerve_export.engines.compile import gpu_capability
from nerve_export.isolation import run_isolated
from nerve_export.parity.album import Comparison, comparable_stages, illustrated_comparison
from nerve_export.parity.compare import compare_bundle
from nerve_export.parity.frames import parity_frames
from nerve_export.parity.measures import ParityReport
from nerve_export.parity.reference import reference_of_bundle
from nerve_export.parity.runners import BackendRunner
from nerve_export.presets.files import bundle_preset
from nerve_ref.weights.files import WeightChoice
from nerve_runtime import Readout
from nerve_runtime.backends import Backend
from nerve_runtime.bundle.manifest import Manifest, load_manifest, verify_bundle
from nerve_runtime.errors import BundleError, NerveError, SourceError, UsageError

BACKENDS = ("ort", "openvino", "ort-cuda", "rtx", "tensorrt")
GRAPH_BACKENDS = ("ort", "openvino")
ENGINE_BACKENDS = ("rtx", "tensorrt")
MIOU_TOLERANCE = 0.5
"""Points of mIoU by which a bundle may differ from the reference on the same scenes; labels agree on 99.5 % of pixels."""


@dataclass(frozen=True, slots=True)
class CertifyPlan:
    """What is certified.

    Attributes:
        bundle: its folder; engines are built into it, where a GPU is here.
        weights: where the reference's weights lie, for presets that do not carry them.
        data: folder of the field's benchmarks, or None.
        frames: how many frames are timed.
        scenes: how many test scenes are scored, or pictures of each benchmark.
        threads: of one run, 0 lets the library choose.
        out: folder of the certificate; states of the benchmarks lie there too.
        classes_folder: class files of the benchmarks, or None.
    """

    bundle: Path
    weights: WeightChoice
    data: Path | None
    frames: int
    scenes: int
    threads: int
    out: Path
    classes_folder: Path | None = None


class OpenVinoRunner(BackendRunner):
    """OpenVINO for the comparison with the reference, stage by stage."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        super().__init__(bundle, manifest, OpenVinoBackend.name)

    def _opened(self) -> Backend:
        return OpenVinoBackend(self.bundle, self.manifest)


def certify(plan: CertifyPlan, told: Callable[[str], None], progress: Callable[..., Any]) -> Iterator[Finding]:
    """Yield the findings as they are made.

    Args:
        plan: what to do.
        told: called with a few words when a part begins.
        progress: makes progress bars, for the parts that have one.

    Raises:
        BundleError: it is no bundle at all.
    """
    manifest = load_manifest(plan.bundle)
    told("verifying files")
    files = _attempt("files", lambda: _files(plan.bundle, manifest))
    yield files
    if files.state == "failed":
        return
    here = {name: missing_for(name) for name in BACKENDS}
    yield from _build_engines(plan, here, told)
    with tempfile.TemporaryDirectory(prefix="nerve-certify-") as folder:
        taps = Path(folder)
        told("running the reference")
        reference = _attempt("reference", lambda: _reference(plan, taps))
        yield reference
        for name in (name for name in BACKENDS if name != "ort-cuda"):
            told(f"comparing {name} with the reference")
            yield _parity(plan, name, here[name], taps, reference)
    yield from _speed_and_memory(plan, manifest, here, told)
    told("comparing labels")
    yield _labels(plan, manifest, here)
    told("scoring")
    yield from _accuracy(plan, manifest, progress)


def missing_for(backend: str) -> str:
    """Why a back end cannot run on this machine; empty where it can."""
    if backend in ("ort", "ort-cuda"):
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed; pip install 'nerve-deploy[ort]'"
        import onnxruntime

        if backend == "ort-cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "the installed onnxruntime has no CUDA; pip install 'nerve-deploy[ort-gpu]' in its place"
        return "no NVIDIA GPU was found here" if backend == "ort-cuda" and gpu_capability() is None else ""
    if backend == "openvino":
        installed = find_spec("openvino") is not None
        return "" if installed else "openvino is not installed; pip install 'nerve-deploy[openvino]'"
    module, extra = ("tensorrt_rtx", "rtx") if backend == "rtx" else ("tensorrt", "trt")
    if gpu_capability() is None:
        return "no NVIDIA GPU was found here"
    return "" if find_spec(module) is not None else f"{module} is not installed; pip install 'nerve-deploy[{extra}]'"


def _attempt(part: str, made: Callable[[], Finding]) -> Finding:
    """A part's finding; an error on purpose is a failure of that part, and the others go on."""
    try:
        return made()
    except NerveError as error:
        return Finding(part, "failed", str(error))


def _files(bundle: Path, manifest: Manifest) -> Finding:
    verify_bundle(bundle, manifest)
    size = sum(record.bytes for record in manifest.files.values())
    facts = {
        "preset": manifest.preset,
        "precision": manifest.precision,
        "opset": manifest.opset,
        "random_weights": manifest.random_weights,
        "working_hw": list(manifest.geometry.working_hw),
        "gmac": manifest.stages["frame"].gmac,
        "bytes": size,
    }
    return Finding(
        "files", "passed", f"{len(manifest.files)} files, {size / 1e6:.1f} MB, are what the manifest says", facts
    )


def _build_engines(plan: CertifyPlan, here: dict[str, str], told: Callable[[str], None]) -> Iterator[Finding]:
    for name in ENGINE_BACKENDS:
        if here[name]:
            yield Finding(f"engines {name}", "not run", here[name])
            continue
        told(f"building {name} engines")
        finding = _attempt(f"engines {name}", lambda name=name: _engines(plan.bundle, name))  # type: ignore[misc]
        if finding.state == "failed":
            here[name] = "its engines could not be built"
        yield finding


def _engines(bundle: Path, name: str) -> Finding:
    from nerve_export.cli.engines import engines

    lines = io.StringIO()
    target = "tensorrt" if name == "tensorrt" else f"rtx:{gpu_capability()}"
    with contextlib.redirect_stdout(lines):  # its lines on stdout are JSON, and become ours
        engines(bundle, target=target, stage=None, force=False, as_json=True, dry_run=False)
    made = [json.loads(line) for line in lines.getvalue().splitlines()]
    seconds = round(sum(fact["seconds"] for fact in made), 1)
    return Finding(f"engines {name}", "passed", f"{len(made)} engines for {target}, {seconds} s", {"engines": made})


def _missing_reference() -> str:
    """Why the reference cannot run on this machine; empty where it can."""
    return "" if is_installed(*REFERENCE) else "PyTorch is not installed; pip install 'nerve-deploy[bench]'"


def _reference(plan: CertifyPlan, taps: Path) -> Finding:
    if missing := _missing_reference():
        return Finding("reference", "not run", missing)
    try:
        run_isolated("running the reference", reference_of_bundle, plan.bundle, plan.weights, None, taps)
    except (BundleError, UsageError) as error:  # weights that are not here; others than the bundle's are a failure
        return Finding("reference", "not run", str(error))
    return Finding("reference", "passed", "the PyTorch reference ran on the weights that the bundle was made of")


def _parity(plan: CertifyPlan, name: str, missing: str, taps: Path, reference: Finding) -> Finding:
    part = f"parity {name}"
    if missing:
        return Finding(part, "not run", missing)
    if reference.state != "passed":
        return Finding(part, "not run", "the reference could not run, see above")
    if name in GRAPH_BACKENDS:
        return _attempt(part, lambda: _judged(part, run_isolated(part, compared_graphs, plan.bundle, taps, name)))
    return _attempt(part, lambda: _judged_engines(part, plan.bundle, taps, name))


def compared_graphs(bundle: Path, taps: Path, name: str) -> ParityReport:
    """A bundle's graphs on ONNX Runtime or OpenVINO against the reference; runs in a process of its own."""
    manifest = load_manifest(bundle)
    runner = OpenVinoRunner(bundle, manifest) if name == "openvino" else name
    # Neither library's processor has a convolution in bf16: of such a bundle the method's own stages are compared.
    return compare_bundle(bundle, manifest, taps, runner, comparable_stages(manifest, "ort"))


def _judged(part: str, report: ParityReport) -> Finding:
    worst, broken = report.worst(), report.first_broken()
    figures = {"backend": report.backend, "taps": len(report.taps), "worst": worst.as_json()}
    if broken is None:
        said = f"all {len(report.taps)} taps agree with the reference; largest difference {worst.max_abs:.2g}"
        return Finding(part, "passed", f"{said} in {worst.stage}.{worst.tensor}", figures)
    failed = sum(not tap.passed for tap in report.taps)
    said = f"{failed} of {len(report.taps)} taps break, first {broken.stage}.{broken.tensor} of frame {broken.frame}"
    return Finding(part, "failed", said, figures)


def _judged_engines(part: str, bundle: Path, taps: Path, name: str) -> Finding:
    comparison: Comparison = run_isolated(part, illustrated_comparison, bundle, taps, name)
    # The runtime refuses engines that nobody compared: the verdict goes into the manifest, as nerve-build parity does it.
    record_engine_parity(bundle, comparison)
    return _judged(part, comparison.report)


def _speed_and_memory(
    plan: CertifyPlan, manifest: Manifest, here: dict[str, str], told: Callable[[str], None]
) -> Iterator[Finding]:
    for name in BACKENDS:
        part = f"speed and memory {name}"
        if here[name]:
            yield Finding(part, "not run", here[name])
            continue
        told(f"timing {name}")
        yield _attempt(part, lambda part=part, name=name: _measured(part, plan, manifest, name))  # type: ignore[misc]


def _measured(part: str, plan: CertifyPlan, manifest: Manifest, name: str) -> Finding:
    frames = bundle_pictures(plan.bundle, manifest, plan.frames)
    (record,) = measure_memory(
        plan.bundle, [name], bundle_words(plan.bundle, manifest), frames, plan.threads, lambda items, _what: items
    )
    fps = 1000 / record["p50_ms"]
    said = (
        f"{fps:.1f} frames a second, each from nothing ({record['p50_ms']:.1f} ms, median of {plan.frames}); "
        f"{record['steady_bytes'] / 1e6:.0f} MB resident, {record['peak_bytes'] / 1e6:.0f} MB at the peak"
    )
    return Finding(part, "passed", said, {**record, "bench": "certify", "fps": round(fps, 2)})


def _labels(plan: CertifyPlan, manifest: Manifest, here: dict[str, str]) -> Finding:
    part = "labels of OpenVINO and ONNX Runtime"
    missing = here["ort"] or here["openvino"]
    if missing:
        return Finding(part, "not run", missing)
    return _attempt(part, lambda: _agreeing(part, plan, manifest))


def _agreeing(part: str, plan: CertifyPlan, manifest: Manifest) -> Finding:
    frames = bundle_pictures(plan.bundle, manifest, plan.frames)
    record = label_agreement(
        plan.bundle, bundle_words(plan.bundle, manifest), frames, lambda items, _what: items, plan.threads
    )
    state: State = "passed" if record["percent"] >= AGREEMENT_FLOOR_PERCENT else "failed"
    said = f"{record['percent']} % of pixels have the same label, {AGREEMENT_FLOOR_PERCENT} % are asked for"
    return Finding(part, state, said, {**record, "bench": "certify"})


def _accuracy(plan: CertifyPlan, manifest: Manifest, progress: Callable[..., Any]) -> Iterator[Finding]:
    if missing := _missing_reference():
        yield Finding("mIoU", "not run", missing)
        return
    if bundle_preset(plan.bundle, manifest.preset).is_packaged:
        yield _attempt("mIoU on the tiny world", lambda: _tiny_miou(plan, manifest.method.readout, progress))
    else:
        yield Finding("mIoU on the tiny world", "not run", f"preset {manifest.preset} does not know the tiny world")
    if plan.data is None:
        yield Finding("mIoU on benchmarks", "not run", "no folder of benchmarks was given; name one with --data")
        return
    try:
        yield from _benchmark_mious(plan, plan.data, progress)
    except SourceError as error:  # nothing is there; says what to download
        yield Finding("mIoU on benchmarks", "not run", str(error))
    except NerveError as error:
        yield Finding("mIoU on benchmarks", "failed", str(error))


def _tiny_miou(plan: CertifyPlan, readout: Readout, progress: Callable[..., Any]) -> Finding:
    """The bundle and the reference on the same test scenes, through ONNX Runtime, both by the bundle's read-out."""
    from nerve_bench.cli.shared import open_world
    from nerve_bench.measure.accuracy import measure_accuracy
    from nerve_bench.world import SEEDS

    scenes = SEEDS["test"][: plan.scenes]
    records = measure_accuracy(open_world("tiny"), scenes, plan.bundle, progress)
    wanted = {"variant": "nerve", "readout": readout}
    mious = {record["runner"]: record["miou"] for record in records if wanted.items() <= record.items()}
    difference = abs(mious["bundle_ort"] - mious["reference"])
    state: State = "passed" if difference <= MIOU_TOLERANCE else "failed"
    said = (
        f"{mious['bundle_ort']:.1f} % on {plan.scenes} test scenes by ONNX Runtime, reference {mious['reference']:.1f} %, "
        f"{readout} read-out"
    )
    return Finding("mIoU on the tiny world", state, said, {"miou": mious, "readout": readout, "n": plan.scenes})


def _benchmark_mious(plan: CertifyPlan, data: Path, progress: Callable[..., Any]) -> Iterator[Finding]:
    from nerve_bench.datasets.protocol import Choices
    from nerve_bench.datasets.reproduce import Reproduction, reproduce
    from nerve_bench.datasets.runners import BundleRunner

    wanted = Reproduction(data, plan.out / "states", Choices(), plan.classes_folder, plan.scenes)
    for record in reproduce(wanted, BundleRunner(plan.bundle), progress):
        name = record.get("dataset")
        if name is None or ("missing" not in record and "miou" not in record):
            continue
        if "missing" in record:
            yield Finding(f"mIoU on {name}", "not run", record["missing"])
        else:
            said = f"{record['miou']:.1f} % on {record.get('n')} pictures"
            yield Finding(f"mIoU on {name}", "measured", said, {"record": record})


def bundle_pictures(bundle: Path, manifest: Manifest, count: int) -> Sequence[NDArray[np.uint8]]:
    """Frames uint8 (H,W,3) of a bundle's working size: test scenes for the tiny preset, seeded patchworks for others."""
    if not bundle_preset(bundle, manifest.preset).is_packaged:
        return parity_frames(manifest.geometry.working_hw, count)
    from nerve_bench.world import SEEDS, make_scene

    return [make_scene(seed, size_px=manifest.geometry.working_hw[0]).rgb for seed in SEEDS["test"][:count]]


def bundle_words(bundle: Path, manifest: Manifest) -> str:
    """A class list that the bundle's vocabulary knows, as on a command line."""
    preset = bundle_preset(bundle, manifest.preset)
    if not preset.is_packaged:
        return preset.parity_classes
    from nerve_bench.world import CLASS_NAMES

    return "; ".join(CLASS_NAMES)
