"""What segments the pictures of a benchmark: the reference in torch, or a bundle through the runtime."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nerve_bench.datasets.protocol import Defaults, Protocol, all_words
from nerve_bench.datasets.tiles import joint_scores
from nerve_bench.world import CLASS_NAMES, words_of
from nerve_ref.params import NerveParams, TemplateSet
from nerve_ref.pipeline import segment, working_frame
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.weights.files import WeightChoice
from nerve_ref.weights.networks import Models
from nerve_runtime import Labels, Segmenter, ignore_label, label_dtype
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import UsageError
from nerve_runtime.segmenter import Constants

UInt8Array = NDArray[np.uint8]
READOUT_ELEMENTS_LIMIT = 2**27
"""Most scores (classes x pixels) that are enlarged at a time: half a gigabyte; a street scene has 19 x 2 million."""
TINY = "tiny"


class LabelsOf(Interface):
    """Segments one picture under a protocol."""

    def __call__(self, rgb: UInt8Array) -> Labels:
        """Labels (H, W) of a picture uint8 (H, W, 3): classes in use, `ignore_label` where scores are not numbers."""
        ...


class Runner(Interface):
    """Something that can segment under a protocol."""

    @property
    def defaults(self) -> Defaults:
        """What it brings to a protocol."""
        ...

    def described(self) -> dict[str, Any]:
        """What it is, for the report: equal descriptions give equal labels."""
        ...

    def opened(self, protocol: Protocol) -> Any:
        """A context in which it segments: `with runner.opened(protocol) as labels_of`."""
        ...


@dataclass(frozen=True, slots=True)
class ReferenceRunner:
    """The reference.

    Attributes:
        models: networks.
        params: constants.
        preset: whose they are.
        weights: hashes of the weights, shortened, or the seed of random ones.
    """

    models: Models
    params: NerveParams
    preset: str
    weights: str

    @property
    def defaults(self) -> Defaults:
        """What it brings to a protocol."""
        return Defaults(self.params.size_hw, self.params.threshold, self.params.template_set, can_tile=True)

    def described(self) -> dict[str, Any]:
        """What it is, with every constant."""
        constants = {name: getattr(self.params, name) for name in self.params.__slots__}
        return {
            "runner": "reference",
            "preset": self.preset,
            "weights": self.weights,
            "constants": constants,
            "torch": torch.__version__,
        }

    @contextmanager
    def opened(self, protocol: Protocol) -> Iterator[LabelsOf]:
        """Embed the words, then segment picture by picture."""
        refuse_unknown_words(self.preset, protocol)
        names = parse_classes(list(protocol.classes), list(protocol.background))
        bank = text_bank(self.models.clip, self.models.tokenizer, names, TEMPLATE_SETS[protocol.templates])

        def labels_of(rgb: UInt8Array) -> Labels:
            P, grid_hw = self._scores(torch.from_numpy(rgb), bank, protocol)
            return labels_at(P, grid_hw, (rgb.shape[0], rgb.shape[1]), protocol)

        yield labels_of

    def _scores(self, rgb: Tensor, bank: TextBank, protocol: Protocol) -> tuple[Tensor, tuple[int, int]]:
        if protocol.short_side_px is None or protocol.overlap is None:
            result = segment(self.models, working_frame(rgb, self.params.size_hw), bank, self.params)
            return result.P, result.grid_hw
        return joint_scores(self.models, rgb, bank, self.params, protocol.short_side_px, protocol.overlap)


@dataclass(frozen=True, slots=True)
class BundleRunner:
    """A bundle through the runtime, on any back end.

    Attributes:
        folder: of the bundle.
        backend: as `nerve-segment --backend`.
        templates: name of a set of templates, None for the bundle's own.
    """

    folder: Path
    backend: str = "auto"
    templates: str | None = None

    @property
    def defaults(self) -> Defaults:
        """What it brings to a protocol."""
        manifest = load_manifest(self.folder)
        templates = self.templates or "the bundle's own"
        return Defaults(manifest.geometry.working_hw, manifest.method.threshold, templates, can_tile=False)

    def described(self) -> dict[str, Any]:
        """What it is; the manifest holds the hash of every file."""
        manifest = load_manifest(self.folder)
        return {
            "runner": "bundle",
            "preset": manifest.preset,
            "precision": manifest.precision,
            "random_weights": manifest.random_weights,
            "backend": self.backend,
            "manifest_sha256": sha256((self.folder / "manifest.json").read_bytes()).hexdigest(),
        }

    @contextmanager
    def opened(self, protocol: Protocol) -> Iterator[LabelsOf]:
        """Open the bundle with the protocol's words; read out bilinearly, as the protocols and `labels_at` are."""
        refuse_unknown_words(load_manifest(self.folder).preset, protocol)
        constants = Constants(threshold=protocol.threshold) if protocol.background else Constants()
        with Segmenter.open(
            self.folder,
            list(protocol.classes),
            background=list(protocol.background),
            backend=self.backend,
            templates=self.templates,
            constants=constants,
            readout="bilinear",
        ) as segmenter:
            yield lambda rgb: segmenter.segment(rgb).labels


def labels_at(P: Tensor, grid_hw: tuple[int, int], size_hw: tuple[int, int], protocol: Protocol) -> Labels:
    """Labels (H, W), uint8 up to 254 classes, from scores (c, p): the reference's read-out, a few classes at a time, and its rule `cam`.

    Under `cam` a pixel is background where background words win, or where the winner's score is below the threshold
    after a division by that class's greatest score in the picture.
    """
    maps = P.unflatten(1, grid_hw)
    at_a_time = max(1, READOUT_ELEMENTS_LIMIT // (size_hw[0] * size_hw[1]))
    best = torch.full(size_hw, -torch.inf)
    labels = torch.zeros(size_hw, dtype=torch.long)
    for first in range(0, len(maps), at_a_time):
        part = functional.interpolate(
            maps[None, first : first + at_a_time], size=size_hw, mode="bilinear", align_corners=False
        )[0]
        scores, winners = part.max(0)
        # The first of equals wins, as in the reference; a NaN stays a NaN.
        better = (scores > best) | scores.isnan()
        best, labels = torch.where(better, scores, best), torch.where(better, winners + first, labels)
    reached = best / P.amax(1)[labels] if protocol.background_rule == "cam" else best
    if protocol.background:
        labels[reached < protocol.threshold] = 0
    dtype = label_dtype(len(maps))
    labels[best.isnan()] = ignore_label(dtype)
    return np.asarray(labels.numpy().astype(dtype))


def refuse_unknown_words(preset: str, protocol: Protocol) -> None:
    """Refuse words that the tiny networks never heard: their figures would mean nothing.

    Raises:
        UsageError: there are such words.
    """
    known = {word for name in CLASS_NAMES for word in words_of(name)}
    unknown = [word for word in all_words(protocol) if word not in known] if preset == TINY else []
    if unknown:
        raise UsageError(
            f"the tiny networks know {len(known)} words only, and {', '.join(unknown[:5])} of {protocol.dataset} "
            f"are none of them; use a bundle or preset of true size, or say which classes stand for which of their "
            f"words with --classes-file (they know: {', '.join(CLASS_NAMES)}, and synonyms of these)"
        )


def with_templates(runner: ReferenceRunner, templates: str | None) -> ReferenceRunner:
    """The runner with another set of templates, if one is named.

    Raises:
        UsageError: there is no such set.
    """
    if templates is None:
        return runner
    for name in get_args(TemplateSet):
        if name == templates:
            return replace(runner, params=replace(runner.params, template_set=name))
    raise UsageError(f"--templates is {templates!r}, expected one of: {', '.join(TEMPLATE_SETS)}")


def reference_of_bundle(folder: Path, weights: WeightChoice) -> ReferenceRunner:
    """The reference with the weights and constants of a bundle.

    Raises:
        NerveError: the weights are not here, or are others.
    """
    from nerve_export.parity.reference import open_reference
    from nerve_export.presets.files import bundle_preset

    manifest = load_manifest(folder)
    models, params = open_reference(manifest, bundle_preset(folder, manifest.preset), weights)
    return ReferenceRunner(models, params, manifest.preset, _weights_in_words(models))


def reference_of_preset(preset: str, weights: WeightChoice) -> ReferenceRunner:
    """The reference with the constants of a preset, and its weights from where the flags or the hub say.

    Raises:
        UsageError: there is no such preset.
        BundleError: a weight file is missing or is not what it should be.
    """
    from nerve_export.presets.files import presets
    from nerve_export.weights.progress import weights_with_bars
    from nerve_ref.weights.networks import open_models, tiny_models

    if preset not in presets():
        raise UsageError(f"--preset is {preset!r}, expected one of: {', '.join(presets())}")
    chosen = presets()[preset]
    resolved = weights_with_bars(chosen.backbones, weights)
    models = tiny_models() if preset == TINY else open_models(chosen.backbones, resolved.files)
    return ReferenceRunner(models, chosen.params, preset, _weights_in_words(models))


def _weights_in_words(models: Models) -> str:
    if models.random_seed is not None:
        return f"random, seed {models.random_seed}"
    return " ".join(digest[:12] for source in models.sources for digest in source.sha256().values())
