"""When to compute attention anew, and when to go on from the scores of the frame before: decisions only, no state."""

from dataclasses import dataclass
from typing import Literal

from nerve_runtime.errors import UsageError

Decision = Literal["cold", "remix", "warm"]


@dataclass(frozen=True, slots=True)
class KeyframePolicy:
    """A keyframe every `every` frames; 1 makes each frame a keyframe.

    Raises:
        UsageError: `every` is below 1.
    """

    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"keyframe interval is {self.every}, expected 1 or more frames")

    def decide(self, frames_since_keyframe: int | None, *, size_changed: bool, classes_changed: bool) -> Decision:
        """Say how the next frame is computed.

        Args:
            frames_since_keyframe: frames done since the attention was computed, the keyframe counting as 1; None when
                there is no attention to go on from.
            size_changed: the frame has another size than the one before: it is not the same view any more.
            classes_changed: the class list is another one than for the frame before.

        Returns:
            "cold": attention, heads and the walk from the start. "remix": the attention is kept, heads are weighted and
            the walk starts anew. "warm": only a few more steps from the scores of the frame before.
        """
        if frames_since_keyframe is None or size_changed or frames_since_keyframe >= self.every:
            return "cold"
        return "remix" if classes_changed else "warm"
