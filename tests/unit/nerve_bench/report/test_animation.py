from pathlib import Path

import pytest
from PIL import Image

from nerve_bench.report.animation import write_animation
from nerve_bench.world import SEEDS, moving_scene
from nerve_bench.world.clips import write_video
from nerve_runtime.errors import SourceError


def test_a_video_and_its_overlay_become_one_animation(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(moving_scene(SEEDS["clips"][0], 8, size_px=64, cuts=3), str(clip), 10)
    assert write_animation(clip, clip, tmp_path / "a.webp", side_px=24, every=2, fps=10) == 4
    with Image.open(tmp_path / "a.webp") as animation:
        assert (animation.size, animation.n_frames, animation.info["loop"]) == ((24 + 6 + 24, 24), 4, 0)  # type: ignore[attr-defined]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no")
    with pytest.raises(SourceError, match="share no frame that can be read"):
        write_animation(tmp_path / "no.mp4", tmp_path / "no.mp4", tmp_path / "a.webp", side_px=24, every=1, fps=10)
    assert not (tmp_path / "a.webp").exists()
