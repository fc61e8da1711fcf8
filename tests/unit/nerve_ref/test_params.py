"""Constants: what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jaxtyping import config

from nerve_ref.params import NerveParams


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
