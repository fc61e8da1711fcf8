import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.report.page import Section, page
from nerve_bench.report.sections import SECTIONS

VIDEO: list[dict[str, Any]] = [
    {"bench": "video", "variant": name, "ms_per_frame": ms, "ratio_to_cold": ms / 30, "miou": miou, "miou_interval": [-1.0, 1.0], "pixel_accuracy": 90.0, "accuracy_by_age": {"0": 91.0, "1": age}}
    for name, ms, miou, age in (("cold", 30.0, 78.0, 90.0), ("temporal", 9.0, 78.5, 90.5), ("hold", 6.0, 65.0, 85.0))
]  # fmt: skip
HEADER = {"bench": "header", "machine": "a <machine>", "cores": 2}
PLAIN = Section("How deep", "Depth & <width>.", ("depth",), "nerve-bench depth --json")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ALL_SHOWN = (
    "<script>onload = () => { const images = [...document.images]; document.title = "
    "images.filter(image => image.naturalWidth > 0).length + ' of ' + images.length }</script></body>"
)


class Addresses(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value is not None]


def test_a_section_has_its_question_its_command_and_its_records() -> None:
    text = page([PLAIN], [HEADER, {"bench": "depth", "depth_m": 3.14159, "interval": [3.0, 3.5], "n": 7}], {})
    assert '<h2 id="depth">How deep</h2>' in text
    assert "Depth &amp; &lt;width&gt;." in text
    assert "$ nerve-bench depth --json" in text
    assert "<th>depth m</th><th>interval</th><th>n</th>" in text
    assert "<td>3.142</td><td>3 to 3.5</td><td>7</td>" in text
    assert "machine a &lt;machine&gt;, cores 2" in text


def test_what_was_not_measured_is_said_and_what_no_section_knows_is_listed() -> None:
    text = page([PLAIN], [{"bench": "other", "x": 1}], {})
    assert "Not measured: run the command above" in text
    assert text.index("Other records") > text.index("Not measured")


def test_curves_are_drawn_and_not_tabled() -> None:
    curve = {str(age): 1.0 for age in range(20)}
    records = [{"bench": "depth", "n": 1, "curve": curve}, {"bench": "depth", "n": 1, "curve": {"0": 1.0}}]
    text = page([PLAIN], records, {})
    assert "<th>curve</th>" not in text
    assert text.count("<table>") == 1


def test_the_constants_of_a_row_are_told() -> None:
    text = page([PLAIN], [{"bench": "depth", "constants": {"alpha": 0.93, "entropy": "plain"}}], {})
    assert "<td>alpha 0.93, entropy plain</td>" in text


def test_the_page_fetches_nothing() -> None:
    text = page(SECTIONS, [HEADER, *VIDEO], {"a picture": b"\x89PNG"})
    parser = Addresses()
    parser.feed(text)
    assert len(parser.found) > len(SECTIONS)
    assert [address[:40] for address in parser.found if not address.startswith(("#", "data:image/png;base64,"))] == []
    assert "@import" not in text
    assert "url(" not in text


def test_every_section_of_the_report_has_a_name_of_its_own() -> None:
    anchors = [section.anchor for section in SECTIONS]
    assert len(set(anchors)) == len(anchors)
    assert all(section.command.startswith("nerve-bench ") for section in SECTIONS)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian's package is called chromium)")
def test_a_browser_shows_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(SECTIONS, [HEADER, *VIDEO], {}).replace("</body>", ALL_SHOWN), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [str(CHROMIUM), *words, "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"]
    ended = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", ended.stdout)
    assert title is not None, ended.stderr[-1000:]
    assert title[1] == "1 of 1"
