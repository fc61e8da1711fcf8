"""Constants: the method's defaults and the refusals."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jaxtyping import config

from nerve_ref.params import PAPER, PRESETS, SD21, NerveParams


def test_the_defaults_are_those_of_the_method() -> None:
    assert (SD21.alpha, SD21.beta, SD21.steps, SD21.warm_steps) == (0.85, 0.7, 20, 3)
    assert (SD21.sigma, SD21.pooled_hw, SD21.tau, SD21.threshold) == (0.1, (16, 16), 50, 0.1)
    assert (SD21.key_norm, SD21.head_temperature, SD21.sharpen, SD21.timestep) == (True, 1, 4, 100)
    assert (PAPER.affinity, PAPER.entropy, PAPER.self_loop, PAPER.steps) == ("linear", "plain", True, 20)
    assert set(PRESETS) == {"tiny", "sd21", "sd21-fast", "paper", "edge", "sd15", "dinov2"}


def test_presets_differ_from_the_default_where_their_names_say() -> None:
    fast, edge, sd15, dinov2 = (PRESETS[name] for name in ("sd21-fast", "edge", "sd15", "dinov2"))
    assert fast == replace(SD21, layers=("up_blocks.3.attentions.0",), steps=8)
    assert (edge.size_hw, edge.clip_size_hw, edge.clip_mode, edge.steps) == ((384, 384), (384, 384), "naclip", 8)
    assert sd15 == SD21
    assert dinov2 == replace(SD21, layers=("encoder.layer.10", "encoder.layer.11"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_hw": (500, 512)}, r"size_hw is \(500, 512\), expected multiples of 64 pixels"),
        ({"pooled_hw": (0, 16)}, r"pooled_hw is \(0, 16\), expected a positive height and width"),
        ({"layers": ()}, r"layers is \(\), expected at least one layer name"),
        ({"layers": ("a", "a")}, "each once"),
        ({"alpha": 1.0}, "alpha is 1.0, expected a number from 0 up to, but not, 1"),
        ({"beta": 1.5}, "beta is 1.5, expected a number from 0 to 1"),
        ({"sigma": 0.0}, "sigma is 0.0, expected a finite number above 0"),
        ({"guide_width": 0.0}, "guide_width is 0.0, expected a finite number of at least 0.001"),
        ({"guide_width": float("inf")}, "guide_width is inf, expected a finite number of at least 0.001"),
        ({"tau": float("nan")}, "tau is nan, expected a finite number above 0"),
        ({"sharpen": 0.5}, "sharpen is 0.5, expected a power of at least 1"),
        ({"timestep": 1000}, "timestep is 1000, expected 0 to 999"),
        ({"steps": -1}, "steps is -1, expected 0 or more"),
        ({"affinity": "linear"}, r"sharpen is 4.0, expected 1 \(off\), because the factorised kind"),
        ({"affinity": "relu_dense", "temperature": 2.0}, "because relu_dense has no softmax"),
    ],
)
def test_a_value_out_of_range_is_refused_naming_it(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(NerveParams(), **change)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """A user's process has no shape checks; with them, a wrong word would not reach our own refusal."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_word_is_refused_naming_the_known_ones() -> None:
    word: Any = "dense"
    with pytest.raises(
        ValueError, match="clip_mode is 'dense', expected one of early_fusion, naclip, maskclip, vanilla"
    ):
        replace(NerveParams(), clip_mode=word)
