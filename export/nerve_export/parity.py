"""Reference against bundle: each graph alone on the reference's inputs, then all of them in a row, cold and warm."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nerve_export.stages import TABLE, Tolerance
from nerve_runtime.backends import Session, open_backend
from nerve_runtime.manifest import Manifest
from nerve_runtime.spec import StageName

if TYPE_CHECKING:
    from nerve_ref.params import NerveParams
    from nerve_ref.pipeline import Intermediates
    from nerve_ref.text import TextBank
    from nerve_ref.weights import Models

Tensors = Mapping[str, NDArray[Any]]
Run = Callable[[StageName, Tensors], Tensors]
FRAMES = 4
CHAIN_AGREEMENT = 0.995
"""Least share of pixels on which reference and bundle agree, end to end."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One comparison: `cosine` and `max_abs` for floats, `agreement` (share of equal elements) for integers."""

    stage: str
    tensor: str
    frame: int
    cosine: float | None
    max_abs: float
    agreement: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All comparisons of one bundle on one back end."""

    backend: str
    taps: tuple[Tap, ...]

    @property
    def passed(self) -> bool:
        """Whether every tap passed."""
        return all(tap.passed for tap in self.taps)

    def worst(self) -> Tap:
        """The first tap that failed, or the one with the largest difference."""
        failed = [tap for tap in self.taps if not tap.passed]
        return failed[0] if failed else max(self.taps, key=lambda tap: tap.max_abs)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `parity.json`."""
        return {"backend": self.backend, "passed": self.passed, "taps": [asdict(tap) for tap in self.taps]}


def check_parity(
    folder: Path, manifest: Manifest, models: "Models", params: "NerveParams", classes: str, backend: str = "ort"
) -> ParityReport:
    """Compare a bundle with the reference.

    Args:
        folder: the bundle, installed or staged.
        manifest: its manifest.
        models: the reference's networks.
        params: the constants that the bundle was built with.
        classes: class list to segment with.
        backend: what runs the bundle.

    Raises:
        NerveError: the back end cannot open or run a stage.
    """
    import torch

    from nerve_ref.templates import TEMPLATE_SETS
    from nerve_ref.text import parse_classes, text_bank

    with open_backend(backend, folder, manifest) as opened, torch.no_grad():
        sessions: dict[StageName, Session] = {name: opened.open_session(name) for name in manifest.stages}

        def run(stage: StageName, tensors: Tensors) -> Tensors:
            wanted = [spec.name for spec in manifest.stages[stage].spec.inputs]
            return sessions[stage].run({name: np.array(tensors[name], order="C") for name in wanted})

        bank = text_bank(models.clip, models.tokenizer, parse_classes(classes), TEMPLATE_SETS[params.template_set])
        taps = [*_text_taps(run, manifest, models, classes), *_frame_taps(run, manifest, models, params, bank)]
        return ParityReport(opened.describe(), (*taps, *_chain_taps(run, models, params, bank)))


def parity_frames(size_hw: tuple[int, int], count: int = FRAMES) -> list[NDArray[np.uint8]]:
    """Seeded frames uint8 (H,W,3): patchworks of textured regions, as a walk likes them; no two the same."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for seed in range(count):
        rng = np.random.default_rng([8248, seed])
        centers = rng.uniform(0, 1, (6, 2)) * size_hw
        region = np.argmin((y[..., None] - centers[:, 0]) ** 2 + (x[..., None] - centers[:, 1]) ** 2, axis=-1)
        colors, tilts = rng.uniform(20, 235, (6, 3)), rng.uniform(-0.9, 0.9, (6, 2))
        waves = np.sin(y * tilts[region, 0] + x * tilts[region, 1])[..., None] * rng.uniform(0, 50, (6, 1))[region]
        noise = rng.normal(0, 8, (height, width, 3))
        frames.append(np.clip(colors[region] + waves + noise, 0, 255).astype(np.uint8))
    return frames


def _text_taps(run: Run, manifest: Manifest, models: "Models", classes: str) -> Iterator[Tap]:
    from nerve_ref.text import text_embeddings

    names = [name.strip() for name in classes.replace(",", ";").split(";")]
    template = manifest.vocabulary.template_sets[manifest.vocabulary.default_template_set][0]
    expected = text_embeddings(models.clip, models.tokenizer, names, [template])
    encodings = models.tokenizer.encode_batch([template.format(name) for name in names])
    ids = np.array([encoding.ids for encoding in encodings], np.int64)
    found = run("text", {"token_ids": ids})
    yield from _compare("text", manifest.precision, 0, {"text_embeddings": expected.numpy()}, found)


def _frame_taps(
    run: Run, manifest: Manifest, models: "Models", params: "NerveParams", bank: "TextBank"
) -> Iterator[Tap]:
    """Every stage on the reference's own inputs, so that an error shows in the stage that makes it."""
    from nerve_ref.pipeline import segment

    previous: NDArray[Any] | None = None
    for index, frame in enumerate(parity_frames(params.size_hw)):
        reference = segment(models, _torch(frame), bank, params)
        inputs = _inputs(frame, bank, params) | _intermediates(reference)
        previous = inputs["seed_scores"] if previous is None else previous
        expected = inputs | _expected(reference, inputs, params, previous)
        # The warm walk starts from the previous frame's result, as it does on video.
        given = inputs | {"previous_scores": previous, "size_hw": np.array(params.size_hw, np.int64)}
        for stage in ("scores", "attention", "mix", "walk", "walk_warm", "readout", "frame"):
            if stage not in manifest.stages:
                continue
            found = run(stage, given)
            wanted = expected | ({"label_scores": expected["warm_scores"]} if stage == "walk_warm" else {})
            yield from _compare(stage, manifest.precision, index, wanted, found)
        previous = inputs["label_scores"]


def _chain_taps(run: Run, models: "Models", params: "NerveParams", bank: "TextBank") -> Iterator[Tap]:
    """The bundle's stages fed by each other: a keyframe, then warm frames, against the reference's video."""
    from nerve_ref.video import VideoReference

    video = VideoReference(models, bank, params, keyframe_every=FRAMES)
    first, *others = parity_frames(params.size_hw)
    # Warm frames see the keyframe's picture drift towards another: a warm walk across a cut means nothing.
    frames = [first, *((0.9 * first + 0.1 * other).astype(np.uint8) for other in others)]
    state: dict[str, NDArray[Any]] = {}
    for index, frame in enumerate(frames):
        expected = video.step(_torch(frame))
        given = _inputs(frame, bank, params) | {"size_hw": np.array(params.size_hw, np.int64)}
        given |= run("scores", given)
        if index == 0:
            state |= run("attention", given)
            state |= run("mix", given | state)
        walk: StageName = "walk_warm" if index else "walk"
        state["previous_scores"] = run(walk, given | state)["label_scores"]
        found = run("readout", given | {"label_scores": state["previous_scores"]})
        agreement = float((found["labels"] == expected.labels.numpy()).mean())
        name = "cold" if index == 0 else "warm"
        yield Tap("chain", f"labels_{name}", index, None, 1 - agreement, agreement, agreement >= CHAIN_AGREEMENT)


def _inputs(frame: NDArray[np.uint8], bank: "TextBank", params: "NerveParams") -> dict[str, NDArray[Any]]:
    scalars = ("tau", "alpha", "beta", "head_temperature")
    return {
        "frame": frame[None],
        "text_embeddings": bank.embeddings.numpy(),
        "class_rows": bank.class_rows.numpy(),
        "class_mask": bank.class_mask.numpy(),
        "threshold": np.array(params.threshold if bank.has_background else 0.0, np.float32),
        **{name: np.array(getattr(params, name), np.float32) for name in scalars},
    }


def _intermediates(reference: "Intermediates") -> dict[str, NDArray[Any]]:
    tensors: dict[str, Any] = {
        "seed_scores": reference.G,
        "head_affinity": reference.affinity.B,  # type: ignore[attr-defined]  # only softmax_pooled has a graph
        "local_weights": reference.local_weights,
        "affinity": reference.S_global.S,  # type: ignore[attr-defined]  # likewise
        "head_weights": reference.head_weights,
        "head_entropies": reference.head_entropies,
        "label_scores": reference.P,
        "labels": reference.labels,
        "confidence": reference.confidence,
    }
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _expected(
    reference: "Intermediates", inputs: Tensors, params: "NerveParams", previous: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """What needs another run of the reference: the warm walk."""
    from nerve_ref.walk import mixed_step, walk

    step = mixed_step(reference.S_global, reference.local_weights, params.beta)
    warm = walk(reference.G, step, params.alpha, params.warm_steps, start=_torch(previous))
    return {"warm_scores": warm.numpy()}


def _compare(stage: StageName, precision: str, frame: int, expected: Tensors, found: Tensors) -> Iterator[Tap]:
    for name, array in found.items():
        yield compared(stage, name, frame, expected[name], array, TABLE[stage].tolerance[precision])


def compared(
    stage: str, tensor: str, frame: int, expected: NDArray[Any], found: NDArray[Any], tolerance: Tolerance
) -> Tap:
    """Compare two arrays of one shape under a tolerance; confidence may differ by one level of 255.

    A value that is not finite, or another shape, fails.
    """
    if expected.shape != found.shape:
        return Tap(stage, tensor, frame, None, float("inf"), 0.0, passed=False)
    wide, narrow = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    max_abs = float(np.abs(wide - narrow).max())
    if found.dtype == np.uint8:
        slack = 1 if tensor == "confidence" else 0
        agreement = float((np.abs(wide - narrow) <= slack).mean())
        return Tap(stage, tensor, frame, None, max_abs, agreement, agreement >= tolerance.agreement)
    cosine = float(wide @ narrow) / max(float(np.linalg.norm(wide) * np.linalg.norm(narrow)), 1e-30)
    passed = bool(np.isfinite(narrow).all()) and cosine >= tolerance.cosine and max_abs <= tolerance.max_abs
    return Tap(stage, tensor, frame, cosine, max_abs, None, passed)


def _torch(array: NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(np.array(array))
