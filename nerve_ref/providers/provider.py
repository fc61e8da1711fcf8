"""Networks that affinity comes from: each provider turns a frame into queries and keys behind one interface (E2)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from diffusers import UNet2DConditionModel
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import CLIPModel

from nerve_ref.clip_scores import clip_pixels
from nerve_ref.params import NerveParams
from nerve_ref.providers.clip import clip_heads
from nerve_ref.providers.dino import DinoModel, dino_heads, dino_normalisation, dino_pixels
from nerve_ref.providers.stable_diffusion import Autoencoder, LayerHeads, latent, noised, unet_heads
from nerve_ref.weights.architectures import dino_grid_hw


@runtime_checkable
class AffinityProvider(Protocol):
    """Networks that give queries and keys."""

    def observe(
        self, frame: UInt8[Tensor, "H W 3"], params: NerveParams
    ) -> tuple[Float[Tensor, "1 z h w"] | None, tuple[LayerHeads, ...]]:
        """The clean latent, None where there is none, and queries and keys of `params.layers`, in their order.

        Raises:
            ValueError: for a layer that the networks do not have, listing those that they have.
        """
        ...


@dataclass(frozen=True, slots=True)
class StableDiffusion:
    """Queries and keys of a UNet at one timestep of a noised frame under the empty prompt (method, section 4).

    Attributes:
        vae: full or tiny autoencoder.
        unet: noise predictor.
        alphas_cumprod: abar of each timestep.
        context: embedding of the empty prompt.
    """

    vae: Autoencoder
    unet: UNet2DConditionModel
    alphas_cumprod: Float[Tensor, " steps"]
    context: Float[Tensor, "1 l d"]

    def observe(
        self, frame: UInt8[Tensor, "H W 3"], params: NerveParams
    ) -> tuple[Float[Tensor, "1 z h w"], tuple[LayerHeads, ...]]:
        """As `AffinityProvider.observe`."""
        z0 = latent(self.vae, frame)
        z_t = noised(z0, self.alphas_cumprod, params.timestep, params.noise, params.noise_seed)
        return z0, unet_heads(self.unet, z_t, params.timestep, self.context, params.layers)


@dataclass(frozen=True, slots=True)
class Dino:
    """Queries and keys of a DINO's layers on the clean frame; it has no latent, no timestep and no noise.

    Attributes:
        model: transformers' DINOv2, DINOv3 or RADIO.
    """

    model: DinoModel

    def grid_hw(self, params: NerveParams) -> tuple[int, int]:
        """Token grid: one token per 16 x 16 pixels of the working frame."""
        return dino_grid_hw(params.size_hw)

    def observe(self, frame: UInt8[Tensor, "H W 3"], params: NerveParams) -> tuple[None, tuple[LayerHeads, ...]]:
        """As `AffinityProvider.observe`."""
        grid_hw = self.grid_hw(params)
        pixels = dino_pixels(frame, grid_hw, self.model.config.patch_size, dino_normalisation(self.model))
        return None, dino_heads(self.model, pixels, params.layers, grid_hw)


@dataclass(frozen=True, slots=True)
class Clip:
    """Queries and keys of CLIP's own vision tower on the clean frame; one token a patch, no latent, timestep or noise.

    Attributes:
        model: the CLIP that compares pictures with words too.
    """

    model: CLIPModel

    def observe(self, frame: UInt8[Tensor, "H W 3"], params: NerveParams) -> tuple[None, tuple[LayerHeads, ...]]:
        """As `AffinityProvider.observe`."""
        return None, clip_heads(self.model, clip_pixels(frame, params.clip_size_hw), params.layers)
