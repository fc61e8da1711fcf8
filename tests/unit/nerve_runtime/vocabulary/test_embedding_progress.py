"""Who opens a bundle with a long class list is told how far its prompts are."""

from pathlib import Path
from typing import Any

from nerve_runtime import Segmenter
from tests.data.fake_bundle import WORDS
from tests.data.many_names import many_names


def test_progress_is_told_before_the_first_batch_of_prompts_and_after_each(bundle: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    options: dict[str, Any] = {
        "backend": "fake",
        "templates": "pair",
        "cache_dir": tmp_path,
        "progress": lambda *report: reports.append(report),
    }
    for expected in ([(0, 400), (256, 400), (400, 400)], []):  # the second time they are in the cache
        Segmenter.open(bundle, many_names(WORDS, 200), **options).close()
        assert reports == expected
        reports.clear()
