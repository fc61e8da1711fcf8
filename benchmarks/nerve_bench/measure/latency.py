"""Latency of each stage and of a frame: reference eager and compiled, bundle through each library; in one run, in turns."""

import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nerve_bench.doubles.engines import FAKE_CUDA
from nerve_bench.machine import processor
from nerve_bench.measure.accuracy import World
from nerve_bench.measure.openvino import INSTALL, label_agreement, openvino_version
from nerve_bench.world import CLASS_NAMES
from nerve_ref.clip_scores import clip_pixels, dense_features
from nerve_ref.pipeline import Mix, Structure, mix_heads, seeds, structure
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.providers.stable_diffusion import CaptureProcessor, LayerHeads, latent, noised
from nerve_ref.walk import mixed_step, readout, walk
from nerve_runtime import Segmenter
from nerve_runtime.backends import BackendOptions
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import CompatibilityError, UsageError
from nerve_runtime.frames import resize_frame
from nerve_runtime.temporal import Temporal

Frame = NDArray[np.uint8]
Timings = dict[str, list[float]]
BLOCK_FRAMES = 16
PERCENTILES = (50, 90, 99)
EAGER = "reference_eager"
IMITATION = f"bundle_{FAKE_CUDA}"
RUNNERS = (EAGER, "reference_compile", "bundle_ort", "bundle_openvino", IMITATION)
TRANSFERS = ("h2d_bytes", "d2h_bytes", "waits")
AGREEMENT_FRAMES = 8
STAGES = ("scores", "attention", "mix", "walk", "walk_warm", "readout")


class ReferenceStages:
    """The reference cut into the stages of a bundle, each a plain function, so that each can be timed or compiled.

    The capture processors stay on the UNet: `unet_heads` puts new ones on for every call, which a compiler would have
    to compile for again. Two of these on one UNet share them.
    """

    def __init__(self, world: World, *, compiled: bool) -> None:
        self.world, self.params = world, world.params
        self.provider = _stable_diffusion(world)
        self.captures = _installed_captures(self.provider.unet, world.params.layers)
        self.grid_hw = (0, 0)
        self.timings: Timings = {}
        self.transfers: list[tuple[int, ...]] = []  # torch computes in host memory, nothing crosses
        names = ("scores", "attention", "mix", "walk", "walk_warm", "readout")
        functions = {name: getattr(self, f"_{name}") for name in names}
        self.functions = (
            {name: torch.compile(f, dynamic=False) for name, f in functions.items()} if compiled else functions
        )
        self.kept: tuple[Structure, Mix, torch.Tensor] | None = None

    def frame(self, frame: Frame, *, keyframe: bool) -> None:
        """Segment one frame: everything on a keyframe, CLIP and a warm walk on the others."""
        pixels = torch.from_numpy(resize_frame(frame, self.params.size_hw))
        started = time.perf_counter()
        with torch.no_grad():
            if keyframe or self.kept is None:
                parts = self._timed("attention", pixels)
                G = self._timed("scores", pixels, parts.grid_hw)
                mix = self._timed("mix", parts, G)
                P = self._timed("walk", G, mix, parts)
            else:
                parts, mix, previous = self.kept
                G = self._timed("scores", pixels, parts.grid_hw)
                P = self._timed("walk_warm", G, mix, parts, previous)
            self._timed("readout", P, parts.grid_hw)
        self.kept = (parts, mix, P)
        self.timings.setdefault("frame", []).append(1000 * (time.perf_counter() - started))

    def _timed(self, stage: str, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = self.functions[stage](*arguments)
        self.timings.setdefault(stage, []).append(1000 * (time.perf_counter() - started))
        return result

    def _scores(self, pixels: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
        features = dense_features(
            self.world.models.clip, clip_pixels(pixels, self.params.clip_size_hw), self.params.clip_mode
        )
        return seeds(features, self.world.bank, self.params, grid_hw)

    def _attention(self, pixels: torch.Tensor) -> Structure:
        provider, params = self.provider, self.params
        z0 = latent(provider.vae, pixels)
        z_t = noised(z0, provider.alphas_cumprod, params.timestep, params.noise, params.noise_seed)
        provider.unet(z_t, params.timestep, encoder_hidden_states=provider.context)
        heads = tuple(_layer_heads(name, capture, z_t) for name, capture in self.captures.items())
        return structure(heads, z0, pixels, params)

    def _mix(self, parts: Structure, G: torch.Tensor) -> Mix:
        return mix_heads(parts.affinity, G, self.params)

    def _walk(self, G: torch.Tensor, mix: Mix, parts: Structure) -> torch.Tensor:
        step = mixed_step(mix.S_global, parts.local_weights, self.params.beta)
        return walk(G, step, self.params.alpha, self.params.steps)

    def _walk_warm(self, G: torch.Tensor, mix: Mix, parts: Structure, previous: torch.Tensor) -> torch.Tensor:
        step = mixed_step(mix.S_global, parts.local_weights, self.params.beta)
        return walk(G, step, self.params.alpha, self.params.warm_steps, start=previous)

    def _readout(self, P: torch.Tensor, grid_hw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        return readout(P, grid_hw, self.params.size_hw, 0.0, has_background=False)


def _stable_diffusion(world: World) -> StableDiffusion:
    provider = world.models.provider
    if not isinstance(provider, StableDiffusion):
        raise UsageError(
            f"stages of {type(provider).__name__} cannot be timed; expected a preset with Stable Diffusion, such as tiny"
        )
    return provider


def _installed_captures(unet: Any, layers: Sequence[str]) -> dict[str, CaptureProcessor]:
    installed = unet.attn_processors
    captures = {
        name: found if isinstance(found := installed[name], CaptureProcessor) else CaptureProcessor()
        for layer in layers
        for name in installed
        if name.startswith(f"{layer}.transformer_blocks.") and ".attn1." in name
    }
    unet.set_attn_processor({**installed, **captures})
    return captures


def _layer_heads(name: str, capture: CaptureProcessor, z_t: torch.Tensor) -> LayerHeads:
    if capture.q is None or capture.k is None:
        raise ValueError(f"the UNet never ran {name}")
    side_ratio = round((z_t.shape[2] * z_t.shape[3] / capture.q.shape[1]) ** 0.5)
    return LayerHeads(name, capture.q, capture.k, (z_t.shape[2] // side_ratio, z_t.shape[3] // side_ratio))


class BundleStages:
    """A bundle through the runtime, as a user calls it, but read out bilinearly, as the reference's stages are.

    Stage timings are the runtime's own.
    """

    def __init__(
        self,
        bundle: Path,
        keyframe_every: int,
        threads: int,
        *,
        spinning: bool,
        classes: str | Sequence[str] = CLASS_NAMES,
        templates: str | None = None,
        backend: str = "ort",
    ) -> None:
        self.segmenter = Segmenter.open(
            bundle,
            classes if isinstance(classes, str) else list(classes),
            backend=backend,
            temporal=Temporal.plain(keyframe_every),
            backend_options=BackendOptions(threads=threads, spinning=spinning),
            templates=templates,
            readout="bilinear",
        )
        if not self.segmenter.backend.startswith(f"{backend}:"):
            raise CompatibilityError(f"asked for {backend}, got {self.segmenter.backend}: refusing to report it")
        self.timings: Timings = {}
        self.transfers: list[tuple[int, ...]] = []

    def frame(self, frame: Frame, *, keyframe: bool) -> None:
        """Segment one frame; whether it is a keyframe is the runtime's decision and must be the expected one."""
        before = astuple(self.segmenter.transfers)
        result = self.segmenter.segment(frame)
        self.transfers.append(
            tuple(now - then for now, then in zip(astuple(self.segmenter.transfers), before, strict=True))
        )
        if result.keyframe != keyframe:
            raise CompatibilityError(
                f"frame {result.index}: keyframe is {result.keyframe}, expected {keyframe}; the runners would be timed "
                "on different work"
            )
        for stage, milliseconds in result.timings_ms.items():
            name = "frame" if stage == "total" else stage
            self.timings.setdefault(name, []).append(milliseconds)


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """`frames` frames after `warm_up` ones, keyframes every `keyframe_every`, on `threads` threads.

    `spinning`: ONNX Runtime's idle threads spin, as PyTorch's do. `runners`: some of `RUNNERS`; the eager reference,
    which ratios are to, always runs.
    """

    frames: int
    warm_up: int
    keyframe_every: int
    threads: int
    spinning: bool
    runners: tuple[str, ...] = RUNNERS

    def __post_init__(self) -> None:
        unknown = [runner for runner in self.runners if runner not in RUNNERS]
        if unknown:
            raise UsageError(f"--runners names {', '.join(unknown)}, expected of: {', '.join(RUNNERS)}")


def available_runners() -> tuple[str, ...]:
    """All runners whose library is installed here."""
    return tuple(name for name in RUNNERS if name != "bundle_openvino" or find_spec("openvino") is not None)


def machine_facts() -> dict[str, Any]:
    """The machine and the versions of what is timed."""
    return {
        "bench": "header",
        "machine": f"{platform.machine()} {processor()}",
        "cores": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "onnxruntime", "numpy")},
    }


def header(plan: LatencyPlan) -> dict[str, Any]:
    """What a figure means nothing without: machine, versions, threads, warm-up, repeats."""
    here = {"openvino": openvino_version()} if "bundle_openvino" in plan.runners else {}
    left_out = [name for name in RUNNERS if name not in plan.runners]
    missing = {name: f"openvino is not installed; {INSTALL}" for name in RUNNERS if name not in available_runners()}
    return {
        **machine_facts(),
        **here,
        "precision": "fp32",
        "threads": plan.threads or "chosen by each library",
        "left_out": {name: missing.get(name, "not asked for") for name in left_out},
        "ort_spinning": plan.spinning,
        "classes": len(CLASS_NAMES),
        "warm_up": plan.warm_up,
        "frames": plan.frames,
    }


def measure_latency(
    world: World, bundle: Path, frames: Sequence[Frame], plan: LatencyPlan, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Time all runners, first with every frame a keyframe, then with keyframes every `plan.keyframe_every`.

    The reference gets frames at its working size, whatever their own. `h2d_bytes`, `d2h_bytes` and `waits` are means of
    what crosses between host and back end in a frame; see `Transfers`. Times of `bundle_fake_cuda` mean nothing.

    Runners alternate in blocks of `BLOCK_FRAMES`, so that a noisy neighbour hits all of them alike. In turns of one
    frame they would measure each other: threads that still spin for the last one's work slow the next.
    """
    # The reference counts the classes in use, which breaks the compiled graph in two and is said at length each time.
    torch._logging.set_logs(dynamo=logging.ERROR)  # type: ignore[attr-defined]  # documented, not re-exported
    manifest = load_manifest(bundle)
    comparable = manifest.preset == "tiny"
    yield {**header(plan), "bundle": bundle.name, "frame_hw": frames[0].shape[:2]}
    for every in (1, plan.keyframe_every):
        runners = {
            name: _opened(name, world, bundle, every, plan) for name in RUNNERS if name in (EAGER, *plan.runners)
        }
        blocks = range(0, plan.warm_up + plan.frames, BLOCK_FRAMES)
        for start in progress(blocks, f"timing, keyframe every {every}"):
            for runner in runners.values():
                _run_block(runner, frames, start, every, plan)
        yield from _records(runners, every, comparable=comparable)
    if {"bundle_ort", "bundle_openvino"} <= set(plan.runners):
        yield label_agreement(bundle, CLASS_NAMES, frames[:AGREEMENT_FRAMES], progress, plan.threads)


def _opened(name: str, world: World, bundle: Path, every: int, plan: LatencyPlan) -> ReferenceStages | BundleStages:
    kind, _, what = name.partition("_")
    if kind == "reference":
        return ReferenceStages(world, compiled=what == "compile")
    return BundleStages(bundle, every, plan.threads, spinning=plan.spinning, backend=what)


def _run_block(
    runner: "ReferenceStages | BundleStages", frames: Sequence[Frame], start: int, every: int, plan: LatencyPlan
) -> None:
    for index in range(start, min(start + BLOCK_FRAMES, plan.warm_up + plan.frames)):
        if index == plan.warm_up:
            runner.timings.clear()
            runner.transfers.clear()
        runner.frame(frames[index % len(frames)], keyframe=index % every == 0)


def _records(runners: dict[str, Any], every: int, *, comparable: bool) -> Iterator[dict[str, Any]]:
    """Lines of all runners; without a ratio for other networks than the reference's, and for the imitation."""
    eager = runners[EAGER].timings
    for name, runner in runners.items():
        for stage in ("frame", *STAGES):
            if stage in runner.timings:
                record = _record(name, stage, every, runner.timings[stage], eager[stage])
                if name != EAGER and (not comparable or name == IMITATION):
                    record["ratio_to_eager"] = None
                yield record | _mean_transfers(runner.transfers) if stage == "frame" else record


def _mean_transfers(transfers: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """What crosses between host and back end in a frame, on average."""
    means = np.mean(transfers, axis=0) if transfers else [0.0] * len(TRANSFERS)
    return {name: round(float(mean), 2) for name, mean in zip(TRANSFERS, means, strict=True)}


def _record(runner: str, stage: str, every: int, measured_ms: list[float], eager_ms: list[float]) -> dict[str, Any]:
    p50, p90, p99 = np.percentile(measured_ms, PERCENTILES)
    cycle = every if stage == "frame" else 1
    typical_ms = median_cycle_ms(measured_ms, cycle)
    return {
        "bench": "latency",
        "runner": runner,
        "stage": stage,
        "keyframe_every": every,
        "p50_ms": round(p50, 3),
        "p90_ms": round(p90, 3),
        "p99_ms": round(p99, 3),
        "typical_ms": round(typical_ms, 3),
        "fps": round(1000 / typical_ms, 1),
        "ratio_to_eager": round(median_cycle_ms(eager_ms, cycle) / typical_ms, 2),
        "n": len(measured_ms),
    }


def median_cycle_ms(measured_ms: Sequence[float], cycle: int) -> float:
    """Median over whole cycles of the mean in a cycle: with a keyframe every 8 frames, the share of one keyframe counts.

    >>> median_cycle_ms([30.0, 2.0, 30.0, 2.0, 90.0, 2.0], 2)
    16.0
    """
    whole = len(measured_ms) // cycle * cycle
    return float(np.median(np.reshape(measured_ms[:whole], (-1, cycle)).mean(axis=1)))
