"""The method on video: keyframes for the slow part, warm starts for the walk (method, section 9)."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nerve_ref.local import local_features, local_weights
from nerve_ref.motion import Motion, carried_dense, carried_neighbours, carried_walk, carry
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import (
    Intermediates,
    mix_heads,
    observe,
    observe_clip,
    read_out,
    seeds,
    solve,
)
from nerve_ref.text import TextBank
from nerve_ref.walk import mixed_step, walk
from nerve_ref.weights.networks import Models


class VideoReference:
    """Segments the frames of one video in order.

    On a keyframe Stable Diffusion runs, head weights are computed and the walk starts cold, from G. On the frames
    between, CLIP alone runs; affinities and head weights are the keyframe's, and the walk takes `warm_steps` from
    the previous frame's result. Keyframes are every `keyframe_every` frames, counted from the last one, and frames
    that differ from the last keyframe by more than `change_threshold`, such as the first after a cut.

    With a `Motion`, scores and affinities move along (`nerve_ref.motion`), and `smoothing` is the share of the previous
    frame's seed scores that is kept.

    State: the last keyframe with its intermediates, the frames since, the previous result, the vocabulary.
    """

    def __init__(
        self,
        models: Models,
        bank: TextBank,
        params: NerveParams,
        keyframe_every: int,
        change_threshold: float = math.inf,
        smoothing: float = 0.0,
    ) -> None:
        """Open a video.

        Args:
            models: networks.
            bank: vocabulary.
            params: constants of the method.
            keyframe_every: greatest age of an affinity in frames; 1 makes every frame a keyframe.
            change_threshold: mean absolute difference of pixels, 0 to 255, above which a frame is a keyframe.
            smoothing: share of the seed scores kept from the frame before where a `Motion` is given, 0 to below 1.

        Raises:
            ValueError: if keyframe_every is below 1.
        """
        if keyframe_every < 1:
            raise ValueError(f"keyframe_every is {keyframe_every}, expected 1 or more (1: every frame is a keyframe)")
        self.models = models
        self.bank = bank
        self.params = params
        self.keyframe_every = keyframe_every
        self.change_threshold = change_threshold
        self.smoothing = smoothing
        self.keyframe: UInt8[Tensor, "H W 3"] | None = None
        self.previous: Intermediates | None = None
        self.age = 0
        self.classes_changed = False

    def set_bank(self, bank: TextBank) -> None:
        """Change the vocabulary: on the next frame head weights are computed again and the walk starts cold."""
        self.bank = bank
        self.classes_changed = True

    def step(
        self, frame: UInt8[Tensor, "H W 3"], motion: Motion | None = None, keyframe: bool | None = None
    ) -> Intermediates:
        """Segment the next frame.

        Args:
            frame: of the working size.
            motion: where its tokens come from; None after a cut, and where motion is not used.
            keyframe: whether it is one; None to decide here.

        Raises:
            ValueError: if the frame has another size than `params.size_hw`.
        """
        is_keyframe = self._is_keyframe(frame) if keyframe is None else keyframe
        if self.previous is None or is_keyframe:
            smoothed = self._smoothing_of(self.previous, motion)
            result = solve(observe(self.models, frame, self.params), self.bank, self.params, smoothed=smoothed)
            self.keyframe, self.age = frame.clone(), 1
        else:
            with torch.no_grad():
                result = self._between_keyframes(frame, self.previous, motion)
            self.age += 1
        self.previous, self.classes_changed = result, False
        return result

    def _is_keyframe(self, frame: UInt8[Tensor, "H W 3"]) -> bool:
        if self.keyframe is None or self.keyframe.shape != frame.shape or self.age >= self.keyframe_every:
            return True
        change = (frame.float() - self.keyframe.float()).abs().mean().item()
        return change > self.change_threshold

    def _smoothing_of(self, previous: Intermediates | None, motion: Motion | None) -> Callable[[Tensor], Tensor] | None:
        if previous is None or motion is None or self.classes_changed or not self.smoothing:
            return None
        return lambda G: carry(G, previous.G, motion, self.smoothing)

    def _between_keyframes(
        self, frame: UInt8[Tensor, "H W 3"], previous: Intermediates, motion: Motion | None
    ) -> Intermediates:
        params = self.params
        features = observe_clip(self.models, frame, params)
        G = seeds(features, self.bank, params, previous.grid_hw)
        if self.classes_changed:
            mix = mix_heads(previous.affinity, G, params)
            previous = replace(
                previous, S_global=mix.S_global, head_entropies=mix.head_entropies, head_weights=mix.head_weights
            )
        smoothed = self._smoothing_of(previous, motion)
        G = G if smoothed is None else smoothed(G)
        P = self._walk(G, previous) if motion is None else self._walk_after(frame, G, previous, motion)
        grid_hw, has_background = previous.grid_hw, self.bank.has_background
        labels, confidence = read_out(P, frame, grid_hw, params.size_hw, params, has_background)
        return replace(previous, features=features, G=G, P=P, labels=labels, confidence=confidence)

    def _walk_after(
        self, frame: UInt8[Tensor, "H W 3"], G: Float[Tensor, "c p"], previous: Intermediates, motion: Motion
    ) -> Float[Tensor, "c p"]:
        """With the keyframe's affinity at the tokens' origins; near affinity comes from this frame where it compares colours."""
        params = self.params
        if params.local_features == "rgb":
            W = local_weights(local_features("rgb", (), None, frame, previous.grid_hw), params.sigma)
        else:
            W = carried_neighbours(previous.local_weights, motion)
        S = carried_dense(previous.S_global, W, motion, params.beta)
        return carried_walk(G, S, params.alpha, params.warm_steps, carry(G, previous.P, motion, 1.0))

    def _walk(self, G: Float[Tensor, "c p"], previous: Intermediates) -> Float[Tensor, "c p"]:
        """Cold after a change of classes, and after a result that was not finite: a warm start would keep it so."""
        params = self.params
        step = mixed_step(previous.S_global, previous.local_weights, params.beta)
        if self.classes_changed or not previous.P.isfinite().all():
            return walk(G, step, params.alpha, params.steps)
        return walk(G, step, params.alpha, params.warm_steps, start=previous.P)
