"""The networks of a plan, and what is told where one cannot be opened."""

from pathlib import Path

import pytest

from nerve_export.plan import make_plan
from nerve_export.plan_models import open_network, plan_models
from nerve_runtime.errors import BundleError
from tests.data.own_presets import DIFFUSION, DINOV3, written


def test_a_configuration_that_makes_no_network_is_told_when_it_is_opened(tmp_path: Path) -> None:
    text = DIFFUSION.replace(
        "norm_num_groups = 8\n\n[networks.affinity.config.vae]", "norm_num_groups = 7\n\n[networks.affinity.config.vae]"
    )
    models = plan_models(make_plan(str(written(tmp_path, text)), random_seed=0), None)
    open_network(models, "clip")
    with pytest.raises(BundleError, match="no UNet can be made of its configuration: ValueError: num_channels"):
        open_network(models, "affinity")


def test_an_opened_network_is_kept(tmp_path: Path) -> None:
    models = plan_models(make_plan(str(written(tmp_path, DINOV3)), random_seed=0), None)
    open_network(models, "affinity")
    assert "provider" in vars(models)
    assert "clip" not in vars(models)
