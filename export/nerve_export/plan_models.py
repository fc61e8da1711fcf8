"""The networks that a plan names."""

from nerve_export.plan import BuildPlan
from nerve_ref.weights.files import ResolvedWeights
from nerve_ref.weights.networks import Models, open_models, random_models, tiny_models
from nerve_runtime.errors import BundleError, UsageError


def plan_models(plan: BuildPlan, resolved: ResolvedWeights | None) -> Models:
    """The networks of a plan, each opened at first use.

    Raises:
        BundleError: a weight file is missing or not what it should be.
        UsageError: the plan names no weights.
    """
    try:
        if plan.random_seed is not None:
            return random_models(plan.backbones, plan.random_seed, plan.weights.tokenizer)
        if plan.preset.is_packaged:
            return tiny_models(plan.backbones.affinity)
        if resolved is not None:
            return open_models(plan.backbones, resolved.files)
    except ValueError as error:
        raise BundleError(str(error)) from error
    raise UsageError(f"preset {plan.preset.name!r} needs weights; give their places or --random-weights SEED")


def open_network(models: Models, network: str) -> None:
    """Open one of the networks, which `models` then keeps: "clip" or "affinity".

    Raises:
        BundleError: a file is not what it should be, or a configuration makes no network.
    """
    try:
        _ = models.clip if network == "clip" else models.provider
    except ValueError as error:
        raise BundleError(str(error)) from error
