"""How much to trust the far affinity against the near one, image by image or token by token (method, section 10; ours).

The paper mixes both by one number (E5). Here the one-step entropies of the two shift that number: whichever affinity
makes up its mind more clearly weighs more. Each row of S stays a convex mix of two rows that sum to 1.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nerve_ref.affinity import MixedAffinity
from nerve_ref.head_weights import PROBABILITY_FLOOR
from nerve_ref.local import local_apply
from nerve_ref.walk import Step

AdaptiveMode = Literal["per_image", "per_pixel"]


def token_entropies(distributions: Float[Tensor, "*n c p"], active: Float[Tensor, ""]) -> Float[Tensor, "*n p"]:
    """-sum_c P log P / log(active) of each token, 0 to 1, for at least two classes in use."""
    terms = distributions * distributions.clamp_min(PROBABILITY_FLOOR).log()
    return -terms.sum(-2) / active.clamp_min(2).log()


def adaptive_beta(
    global_step: Float[Tensor, "c p"],
    local_step: Float[Tensor, "c p"],
    active: Float[Tensor, ""],
    beta: float,
    temperature: float,
    mode: AdaptiveMode,
) -> Float[Tensor, " p"]:
    """Beta of each token: sigmoid(logit(beta) + (H_local - H_global) / temperature), 0 to 1.

    Where both entropies are equal it is `beta`; a large temperature leaves it there; 0 and 1 stay 0 and 1.

    Args:
        global_step: S_global G, with or without the self-loop.
        local_step: S_local G.
        active: how many classes are in use.
        beta: what to mix by where the entropies do not tell, 0 to 1.
        temperature: difference of entropies that moves the log-odds by 1, above 0.
        mode: `per_image` compares the means over all tokens, `per_pixel` those of each token.

    Raises:
        ValueError: if the mode is neither.
    """
    lead = token_entropies(local_step, active) - token_entropies(global_step, active)
    if mode == "per_image":
        lead = lead.mean().expand_as(lead)
    elif mode != "per_pixel":
        raise ValueError(f"mode is {mode!r}, expected per_image or per_pixel")
    return torch.sigmoid(torch.logit(torch.tensor(beta)) + lead / temperature)


def adaptive_step(S_global: MixedAffinity, W: Float[Tensor, "8 h w"], beta: Float[Tensor, " p"]) -> Step:
    """S P with row i of S = beta_i S_global + (1 - beta_i) S_local."""

    def step(P: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
        return beta * S_global.apply(P) + (1 - beta) * local_apply(W, P)

    return step
