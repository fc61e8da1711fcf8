import pytest

from nerve_runtime.errors import UsageError
from nerve_runtime.temporal import KeyframePolicy


def decisions(every: int, frames: int) -> list[str]:
    policy = KeyframePolicy(every)
    since: int | None = None
    made: list[str] = []
    for _ in range(frames):
        decision = policy.decide(since, size_changed=False, classes_changed=False)
        since = 1 if decision == "cold" else (since or 0) + 1
        made.append(decision)
    return made


def test_by_default_every_frame_is_a_keyframe() -> None:
    assert decisions(1, 3) == ["cold", "cold", "cold"]


def test_a_keyframe_comes_every_so_many_frames() -> None:
    assert decisions(3, 7) == ["cold", "warm", "warm", "cold", "warm", "warm", "cold"]


def test_another_size_is_another_view() -> None:
    assert KeyframePolicy(8).decide(2, size_changed=True, classes_changed=False) == "cold"
    assert KeyframePolicy(8).decide(2, size_changed=True, classes_changed=True) == "cold"


def test_other_classes_keep_the_attention() -> None:
    assert KeyframePolicy(8).decide(2, size_changed=False, classes_changed=True) == "remix"


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="keyframe interval is 0, expected 1 or more"):
        KeyframePolicy(0)
