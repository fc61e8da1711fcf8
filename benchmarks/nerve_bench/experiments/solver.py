"""One scene, many settings: whatever two settings share is computed once, so that a further one costs a walk."""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from nerve_bench.experiments.sources import Observer
from nerve_bench.measure.accuracy import World
from nerve_bench.world import Scene
from nerve_ref.adaptive_beta import adaptive_beta, adaptive_step
from nerve_ref.affinity import Affinity, MixedAffinity, MixedPooled, PooledAffinity, affinity_from_heads
from nerve_ref.guided import guide_weights, guided_maps
from nerve_ref.head_weights import active_classes, head_entropies, head_weights
from nerve_ref.local import local_apply, local_dense, local_features, local_weights
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import Mix, Observation, seeds
from nerve_ref.walk import mixed_step, readout, walk
from nerve_runtime import Labels

Kept = TypeVar("Kept")
BetaMode = Literal["fixed", "per_image", "per_pixel"]

OBSERVED = ("timestep", "noise", "noise_seed", "clip_mode", "layers")
AFFINITY = (*OBSERVED, "affinity", "pooled_hw", "temperature", "sharpen", "row_threshold", "key_norm")
ENTROPY = (*AFFINITY, "tau", "self_loop")
MIXED = (*ENTROPY, "entropy", "head_temperature")
NEAR = (*OBSERVED, "local_features", "sigma")
"""Constants that decide a stage's result, those of the stages before it included."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Constants of the method, and what this project tries beside it.

    Attributes:
        params: constants.
        provider: whose queries and keys, of `sources.PROVIDERS`.
        beta_mode: beta fixed, or moved by entropies (`nerve_ref.adaptive_beta`).
        beta_temperature: temperature of the latter.
        exact: the limit of the walk in place of its first steps.
        colour_width: of the guided read-out (`nerve_ref.guided`); 0 is bilinear, whatever `params.readout` says.
    """

    params: NerveParams
    provider: str = "sd"
    beta_mode: BetaMode = "fixed"
    beta_temperature: float = 1.0
    exact: bool = False
    colour_width: float = 0.0

    def changes(self, base: NerveParams) -> dict[str, Any]:
        """What differs from the constants of a preset and from the method."""
        default = asdict(Setting(base))
        mine = asdict(self)
        constants = {name: value for name, value in mine.pop("params").items() if value != default["params"][name]}
        return constants | {name: value for name, value in mine.items() if value != default[name]}


class SceneSolver:
    """The method on one scene, keeping each intermediate by the constants that it depends on.

    Attributes:
        scene: picture and truth.
        world: networks, vocabulary, constants.
    """

    def __init__(self, world: World, scene: Scene, observer: Observer, scene_key: Hashable) -> None:
        """Take a scene; its key tells it from other scenes to the observer, which keeps observations."""
        self.world, self.scene = world, scene
        self._observer, self._scene_key = observer, scene_key
        self._kept: dict[Hashable, Any] = {}

    def labels(self, setting: Setting) -> Labels:
        """Labels of every pixel, uint8 (H,W)."""
        with torch.no_grad():
            return self.read_out(self.scores(setting), setting)

    def read_out(self, P: Tensor, setting: Setting) -> Labels:
        """Labels (H,W) of scores (c,p), bilinear or guided by colour."""
        grid_hw, size_hw = self.grid_hw(setting), setting.params.size_hw
        if setting.colour_width == 0:
            return readout(P, grid_hw, size_hw, 0.0, has_background=False)[0].numpy()
        frame = torch.from_numpy(self.scene.rgb)
        weights = self._once(
            ("guide", grid_hw, setting.colour_width), lambda: guide_weights(frame, grid_hw, setting.colour_width)
        )
        return guided_maps(P, grid_hw, weights).argmax(0).to(torch.uint8).numpy()

    def scores(self, setting: Setting) -> Tensor:
        """P (c,p): the walk, truncated or exact; the same for every read-out."""
        return self._once(("scores", replace(setting, colour_width=0.0)), lambda: self._walked(setting))

    def _walked(self, setting: Setting) -> Tensor:
        params, G = setting.params, self.seeds(setting)
        if params.alpha == 0:
            return G
        if setting.exact:
            return self._limit(setting, G)
        S_global, W = self.mix(setting).S_global, self.near(setting)
        if setting.beta_mode == "fixed":
            return walk(G, mixed_step(S_global, W, params.beta), params.alpha, params.steps)
        return walk(G, adaptive_step(S_global, W, self.betas(setting)), params.alpha, params.steps)

    def dense(self, setting: Setting) -> Tensor:
        """S (p,p), for what only the closed form can say."""
        far = self._once(("far dense", *self._key(setting, MIXED)), lambda: self.mix(setting).S_global.dense())
        near = self._once(("near dense", *self._key(setting, NEAR)), lambda: local_dense(self.near(setting)))
        if setting.beta_mode == "fixed":
            return setting.params.beta * far + (1 - setting.params.beta) * near
        betas = self.betas(setting)[:, None]
        return betas * far + (1 - betas) * near

    def betas(self, setting: Setting) -> Tensor:
        """Beta of each token (p,), by entropies; see `nerve_ref.adaptive_beta`."""
        if setting.beta_mode == "fixed":
            raise ValueError("a fixed beta is in the constants, expected beta_mode per_image or per_pixel")
        G, S_global = self.seeds(setting), self.mix(setting).S_global
        far = self._once(
            ("far step", *self._key(setting, MIXED)), lambda: _far_step(S_global, G, setting.params.self_loop)
        )
        near = self._once(
            ("near step", setting.params.tau, *self._key(setting, NEAR)), lambda: local_apply(self.near(setting), G)
        )
        active = active_classes(G)
        return adaptive_beta(far, near, active, setting.params.beta, setting.beta_temperature, setting.beta_mode)

    def mix(self, setting: Setting) -> Mix:
        """Entropies, weights and the mixed affinity."""
        return self._once(("mix", *self._key(setting, MIXED)), lambda: self._mixed(setting))

    def affinity(self, setting: Setting) -> Affinity:
        """Per-head affinities."""
        return self._once(
            ("affinity", *self._key(setting, AFFINITY)),
            lambda: affinity_from_heads(self.observation(setting).heads, setting.params),
        )

    def near(self, setting: Setting) -> Tensor:
        """W (8,h,w): weights of the 8 neighbours."""
        return self._once(("near", *self._key(setting, NEAR)), lambda: self._near(setting))

    def seeds(self, setting: Setting) -> Tensor:
        """G (c,p)."""
        grid_hw = self.grid_hw(setting)
        return self._once(
            ("seeds", setting.params.tau, setting.params.clip_mode, grid_hw),
            lambda: seeds(self.observation(setting).features, self.world.bank, setting.params, grid_hw),
        )

    def observation(self, setting: Setting) -> Observation:
        """What the networks say, of the layers in use."""
        return self._once(
            ("observation", *self._key(setting, OBSERVED)),
            lambda: self._observer.observation(self._scene_key, self.scene, setting.params, setting.provider),
        )

    def grid_hw(self, setting: Setting) -> tuple[int, int]:
        """Token grid of the affinities."""
        return max(layer.grid_hw for layer in self.observation(setting).heads)

    def _once(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        if key not in self._kept:
            with torch.no_grad():
                self._kept[key] = compute()
        found: Kept = self._kept[key]
        return found

    def _key(self, setting: Setting, names: tuple[str, ...]) -> tuple[Hashable, ...]:
        return (setting.provider, *(getattr(setting.params, name) for name in names))

    def _mixed(self, setting: Setting) -> Mix:
        affinity, G, params = self.affinity(setting), self.seeds(setting), setting.params
        entropies = self._once(
            ("entropies", *self._key(setting, ENTROPY)), lambda: head_entropies(affinity, G, params.self_loop)
        )
        weights = head_weights(entropies, params.entropy, params.head_temperature)
        return Mix(affinity.mixed(weights), entropies, weights)

    def _near(self, setting: Setting) -> Tensor:
        seen, params = self.observation(setting), setting.params
        features = local_features(params.local_features, seen.heads, seen.latent, seen.frame, self.grid_hw(setting))
        return local_weights(features, params.sigma)

    def _limit(self, setting: Setting, G: Tensor) -> Tensor:
        """The closed form (E6) in float32, whose error of 1e-5 moves no label that is worth anything."""
        alpha, S = setting.params.alpha, self.dense(setting)
        return (1 - alpha) * torch.linalg.solve(torch.eye(len(S)) - alpha * S, G.T).T


def _far_step(S_global: MixedAffinity, G: Tensor, self_loop: bool) -> Tensor:
    """S_global G (c,p), without the own cell where the preset removes it and the kind keeps cells."""
    if self_loop or not isinstance(S_global, MixedPooled):
        return S_global.apply(G)
    return PooledAffinity(S_global.S[None], S_global.grid_hw, S_global.pooled_hw).without_self_loop(G)[0]
