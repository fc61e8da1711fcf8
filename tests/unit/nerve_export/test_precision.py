"""The precision plan: what the audit decides, and what a person may decide instead."""

from pathlib import Path

import pytest

from nerve_export.precision import (
    RANGE_LIMIT,
    PrecisionPlan,
    StagePrecision,
    audited,
    is_kept,
    read_precision_plan,
)
from nerve_runtime.errors import NumericError, UsageError

SEEN = {"unet.conv_in": 12.0, "unet.mid": 40000.0, "unet.mid.conv": 33000.0, "vae.conv": 32752.0}


def test_half_of_float16_is_the_limit() -> None:
    assert RANGE_LIMIT == 65504 / 2


def test_the_audit_keeps_what_is_beyond_the_limit_and_lists_the_largest() -> None:
    """Row 21 of the reliability list: no layer beyond half of float16's range is run in float16."""
    decided = audited("attention", "fp16", SEEN, 3, None)
    assert decided.keep_fp32 == ("unet.mid", "unet.mid.conv")
    assert decided.frames == 3
    assert list(decided.largest) == ["unet.mid", "unet.mid.conv", "vae.conv", "unet.conv_in"]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_output_that_is_not_finite_is_beyond_the_limit(value: float) -> None:
    assert audited("attention", "fp16", {"unet.conv_in": value}, 1, None).keep_fp32 == ("unet.conv_in",)


def test_bf16_has_the_range_of_float32_and_keeps_nothing() -> None:
    assert audited("attention", "bf16", SEEN, 1, None).keep_fp32 == ()


def test_a_persons_choice_is_taken_as_it_is() -> None:
    given = StagePrecision(keep_fp32=("unet.mid", "vae"))
    assert audited("attention", "fp16", SEEN, 1, given).keep_fp32 == ("unet.mid", "vae")


def test_a_persons_choice_that_lets_a_layer_overflow_is_refused() -> None:
    """Row 21: the export fails unless the layer is kept in float32."""
    given = StagePrecision(keep_fp32=("unet.mid.conv",))
    expected = (
        r"stage 'attention': unet\.mid \(4e\+04\) exceed half of float16's range \(32752\).*add them to keep_fp32"
    )
    with pytest.raises(NumericError, match=expected):
        audited("attention", "fp16", SEEN, 1, given)


def test_a_kept_layer_stands_for_what_is_inside_it_and_not_for_names_that_begin_alike() -> None:
    assert is_kept("unet.mid.conv", ("unet.mid",))
    assert is_kept("unet.mid", ("unet.mid",))
    assert not is_kept("unet.middle", ("unet.mid",))


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = PrecisionPlan(precision="fp16", stages={"attention": audited("attention", "fp16", SEEN, 1, None)})
    path = tmp_path / "precision.json"
    path.write_text(plan.model_dump_json(indent=2))
    assert read_precision_plan(path, "fp16") == plan
    assert plan.kept("attention") == ("unet.mid", "unet.mid.conv")
    assert plan.kept("scores") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is no precision plan: the file"),
        ('{"precision": "fp8"}', "is no precision plan: precision"),
        ('{"precision": "fp16", "stage": {}}', "is no precision plan: stage: Extra inputs are not permitted"),
        ('{"precision": "fp16", "stages": {"walk": {"keep_fp32": ["a b"]}}}', "keep_fp32"),
        ('{"precision": "bf16"}', "is for bf16, this build is fp16"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_what_is_wrong(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected):
        read_precision_plan(path, "fp16")


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory; check the path"):
        read_precision_plan(tmp_path / "none.json", "fp16")
