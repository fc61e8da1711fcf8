"""Every constant of the method, with its equation or the word "ours"; presets are files of nerve_export."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

ClipMode = Literal["early_fusion", "naclip", "maskclip", "vanilla"]
AffinityKind = Literal["softmax_pooled", "softmax_dense", "linear", "relu_dense"]
EntropyMode = Literal["zscore", "plain", "mean"]
LocalFeatures = Literal["keys", "latent", "rgb"]
Noise = Literal["fixed", "none"]
TemplateSet = Literal["single", "vild14", "openai80"]
Readout = Literal["bilinear", "guided"]

SIZE_MULTIPLE_PX = 64
"""Working sizes are multiples of this: eight for Stable Diffusion's autoencoder times eight for its UNet."""
MAX_TIMESTEP = 999
MIN_GUIDE_WIDTH = 0.001
"""A quarter of a level of 8 bits: below it a pixel would take the one token whose colour is nearest, and no other."""


@dataclass(frozen=True, slots=True)
class NerveParams:
    """The constants of one variant of the method; the defaults are those of the Stable Diffusion 2.1 preset.

    Attributes:
        size_hw: working frame in pixels, multiples of 64 (ours).
        clip_size_hw: input of CLIP in pixels, multiples of its patch; the backbone L/14 at 336 is the paper's (E9).
        clip_mode: how dense features are read out of CLIP (E1 leaves it open; ours: `early_fusion` for L/14).
        tau: factor on the cosines before the softmax that makes G (E1; the value is ours).
        template_set: which prompt templates are averaged (ours).
        timestep: diffusion step at which Q and K are taken, 0 to 999 (ours).
        noise: "fixed" adds one fixed noise tensor, "none" takes its mean, zero (ours).
        noise_seed: seed of that tensor (ours).
        layers: self-attention layers by the name of their attention module, e.g. "up_blocks.3.attentions.0"; each
            stands for `<name>.transformer_blocks.*.attn1` (E2 leaves the choice open; ours).
        affinity: how A = Q K^T (E2) becomes rows that sum to 1 (ours; `linear` is the nearest reading of E2 + E8).
        pooled_hw: cells to which keys are mean-pooled by `softmax_pooled` (ours).
        temperature: divides the logits of the softmax kinds (ours).
        sharpen: power gamma >= 1 on the entries of each row; 1 is off (ours).
        row_threshold: entries under this share of their row's maximum are dropped, after the power; 0 is off (ours).
        key_norm: divide each key's weights by their mean over the rows, so that keys that attract every query count less (ours).
        entropy: form of the head weights, E4 up to the form of the decreasing exponential ("plain" is the paper's).
        head_temperature: T_H of E4, in units of entropy ("plain") or of its deviation over heads ("zscore") (ours).
        self_loop: keep a token's own cell in the one-step distributions of E3; False removes it (ours).
        local_features: what is compared between the 8 neighbours of E5 (ours).
        sigma: width of the local kernel (ours).
        alpha: weight of the walk against the seeds, E6 and E7, 0 <= alpha < 1 (the value is ours).
        beta: weight of the global affinity in E5, 0 to 1 (the value is ours).
        steps: L of E7, about 20 in the paper; 8 is a fast setting (ours).
        warm_steps: steps from the previous frame's result (ours).
        threshold: least probability that is not background, where the vocabulary has a background (ours).
        readout: how pixels get the scores of tokens: by distance ("bilinear"), or by colour too ("guided") (ours).
        guide_width: of the guided read-out, the standard deviation of its weight by colour, in 0..1 colours (ours).
    """

    size_hw: tuple[int, int] = (512, 512)
    clip_size_hw: tuple[int, int] = (336, 336)
    clip_mode: ClipMode = "early_fusion"
    tau: float = 50.0
    template_set: TemplateSet = "openai80"
    timestep: int = 100
    noise: Noise = "fixed"
    noise_seed: int = 0
    layers: tuple[str, ...] = ("up_blocks.3.attentions.0", "up_blocks.3.attentions.1")
    affinity: AffinityKind = "softmax_pooled"
    pooled_hw: tuple[int, int] = (16, 16)
    temperature: float = 1.0
    sharpen: float = 4.0
    row_threshold: float = 0.0
    key_norm: bool = True
    entropy: EntropyMode = "zscore"
    head_temperature: float = 1.0
    self_loop: bool = False
    local_features: LocalFeatures = "keys"
    sigma: float = 0.1
    alpha: float = 0.85
    beta: float = 0.7
    steps: int = 20
    warm_steps: int = 3
    threshold: float = 0.1
    readout: Readout = "bilinear"
    guide_width: float = 0.06

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            ValueError: naming the field, what was got and what is expected.
        """
        self._check_choices()
        self._check_sizes()
        self._check_ranges()
        self._check_options_apply()

    def _check_choices(self) -> None:
        choices = {
            "clip_mode": ClipMode,
            "affinity": AffinityKind,
            "entropy": EntropyMode,
            "local_features": LocalFeatures,
            "noise": Noise,
            "template_set": TemplateSet,
            "readout": Readout,
        }
        for name, literal in choices.items():
            self._require(getattr(self, name) in get_args(literal), name, f"one of {', '.join(get_args(literal))}")
        named = len(self.layers) > 0 and all(self.layers) and len(set(self.layers)) == len(self.layers)
        self._require(named, "layers", "at least one layer name, each once")

    def _check_sizes(self) -> None:
        for name in ("size_hw", "clip_size_hw", "pooled_hw"):
            size_hw = getattr(self, name)
            self._require(len(size_hw) == 2 and min(size_hw) > 0, name, "a positive height and width")
        whole = all(side % SIZE_MULTIPLE_PX == 0 for side in self.size_hw)
        self._require(whole, "size_hw", f"multiples of {SIZE_MULTIPLE_PX} pixels")

    def _check_ranges(self) -> None:
        for name in ("tau", "temperature", "head_temperature", "sigma"):
            value = getattr(self, name)
            self._require(math.isfinite(value) and value > 0, name, "a finite number above 0")
        for name in ("beta", "threshold", "row_threshold"):
            self._require(0 <= getattr(self, name) <= 1, name, "a number from 0 to 1")
        wide = math.isfinite(self.guide_width) and self.guide_width >= MIN_GUIDE_WIDTH
        self._require(wide, "guide_width", f"a finite number of at least {MIN_GUIDE_WIDTH}")
        self._require(0 <= self.alpha < 1, "alpha", "a number from 0 up to, but not, 1: at 1 the walk has no limit")
        self._require(math.isfinite(self.sharpen) and self.sharpen >= 1, "sharpen", "a power of at least 1 (1 is off)")
        self._require(0 <= self.timestep <= MAX_TIMESTEP, "timestep", f"0 to {MAX_TIMESTEP}")
        for name in ("steps", "warm_steps", "noise_seed"):
            self._require(getattr(self, name) >= 0, name, "0 or more")

    def _check_options_apply(self) -> None:
        """An option without effect on the chosen affinity must be off, or nobody would notice that it does nothing."""
        if self.affinity in ("linear", "relu_dense"):
            self._require(self.temperature == 1, "temperature", f"1, because {self.affinity} has no softmax")
        if self.affinity == "linear":
            reason = "because the factorised kind 'linear' never forms the entries"
            self._require(self.sharpen == 1, "sharpen", f"1 (off), {reason}")
            self._require(self.row_threshold == 0, "row_threshold", f"0 (off), {reason}")
            self._require(not self.key_norm, "key_norm", f"False, {reason}")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"NerveParams.{name} is {getattr(self, name)!r}, expected {expected}")
