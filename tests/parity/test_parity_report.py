"""The report: pictures inside, the first broken tap marked, nothing fetched from anywhere; and the command itself."""

import base64
import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nerve_export.bundle import write_manifest
from nerve_export.cli import parity as parity_cli
from nerve_export.graphs.stages import Tolerance
from nerve_export.parity.album import Comparison, compare_with_polygraphy, illustrated_comparison
from nerve_export.parity.measures import ParityReport, compared
from nerve_export.parity.report import rows, verdict, write_html, write_markdown
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import NumericError
from nerve_runtime.opencv import cv2
from tests.parity import damage

pytestmark = pytest.mark.onnx


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def broken(bundle: Path, manifest: Manifest, taps: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A bundle whose K of the second layer is off."""
    folder = tmp_path_factory.mktemp("broken") / "off & <on>"
    write_manifest(folder, damage.damaged_bundle(bundle, manifest, folder, "attention", damage.scaled("k1", 1.05)))
    return illustrated_comparison(folder, taps, "polygraphy:ort")


def pictures_of(text: str) -> list[np.ndarray]:
    """The embedded PNG pictures of a page, decoded."""
    sources = [attributes["src"] or "" for tag, attributes in Page(text).tags if tag == "img"]
    contents = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    pictures = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in contents]
    assert all(picture is not None for picture in pictures)
    return [np.asarray(picture) for picture in pictures]


def test_the_page_has_everything_inside_and_fetches_nothing(broken: Comparison, tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", [broken])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import", text)
    pictures = pictures_of(text)
    assert len(pictures) == len(broken.pictures) == 14
    assert all(min(picture.shape[:2]) >= 160 for picture in pictures)
    assert "off & <on>" in page.words
    assert "sd21" not in page.words


def test_the_first_broken_tap_is_marked_once_and_named_by_its_layer(broken: Comparison, tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", [broken])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sum(tag == "tr" and attributes.get("class") == "first" for tag, attributes in Page(text).tags) == 1
    marked = [row for row in rows(broken) if row.state == "first"]
    assert [row.cells[:3] for row in marked] == [
        ("BROKEN", "attention", "K of up_blocks.1.attentions.0.transformer_blocks.0")
    ]
    assert verdict(broken).endswith(
        "the first in the order of the method is K of up_blocks.1.attentions.0.transformer_blocks.0 "
        "(stage attention, frame 0)"
    )


def test_all_rows_before_the_first_broken_one_passed(broken: Comparison) -> None:
    states = [row.state for row in rows(broken)]
    assert set(states[: states.index("first")]) == {"passed"}
    assert states.index("first") > 1


def test_markdown_has_a_table_of_equal_rows_and_its_pictures_beside_it(broken: Comparison, tmp_path: Path) -> None:
    written = write_markdown(tmp_path / "report.md", [broken, broken])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert [tmp_path / link for link in links] == list(written)
    assert all(cv2.imread(str(path)) is not None for path in written)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len(lines) == 2 * (len(broken.report.taps) + 2)
    assert len(set(written)) == 2 * len(broken.pictures)


def test_polygraphys_comparator_measures_what_we_measure(broken: Comparison) -> None:
    ours = {(tap.stage, tap.tensor): tap for tap in broken.report.taps if tap.frame == 0 and tap.max_abs_limit}
    assert set(broken.polygraphy) == set(ours)
    for name, result in broken.polygraphy.items():
        assert result.max_abs == pytest.approx(ours[name].max_abs, rel=1e-6)
        assert result.passed == (ours[name].max_abs <= (ours[name].max_abs_limit or 0))
    assert not all(result.passed for result in broken.polygraphy.values())


def test_polygraphy_passes_no_broken_numbers() -> None:
    expected = np.ones(8)
    found = np.array([1, 1, 1, 1, 1, 1, 1, np.nan])
    assert not compare_with_polygraphy(0.1, expected, found).passed
    assert compare_with_polygraphy(0.1, expected, expected + 0.05).passed
    assert not compare_with_polygraphy(0.1, expected, expected + 0.15).passed


def test_the_table_shows_each_tensor_once_by_its_worst_frame(broken: Comparison) -> None:
    lines = parity_cli.table_lines(broken)
    assert len(lines) == 1 + len({(tap.stage, tap.tensor) for tap in broken.report.taps})
    assert sum(line.startswith("FIRST BROKEN") for line in lines) == 1
    kept = {(tap.stage, tap.tensor): tap for tap in parity_cli.worst_frames(broken.report)}
    for tap in broken.report.taps:
        best = kept[tap.stage, tap.tensor]
        assert (best.passed, -best.max_abs) <= (tap.passed, -tap.max_abs)


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    """Run `nerve-build parity` in this process."""
    from nerve_export.cli import build as cli

    monkeypatch.setattr(sys, "argv", ["nerve-build", "parity", *map(str, words)])
    cli.main()


@pytest.fixture
def stub(broken: Comparison, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """The command gets the comparison above at once, whatever is compared."""
    monkeypatch.setattr(parity_cli, "_compare", lambda bundles, *_: [broken for _ in bundles])
    return broken


def test_a_broken_bundle_ends_the_command_with_exit_code_7_after_its_reports(
    stub: Comparison,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, "--html", tmp_path / "r.html", "--markdown", tmp_path / "r.md", "--json")
    assert ended.value.code == NumericError.exit_code == 7
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert len(lines) == len(stub.report.taps) + 1
    assert lines[-1]["first_broken"] == "attention.k1"
    assert "K of up_blocks.1.attentions.0" in captured.err
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert (tmp_path / "r.md").is_file()


def test_a_report_that_exists_is_not_replaced_unasked(
    stub: Comparison,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "r.html").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, "--html", tmp_path / "r.html")
    assert ended.value.code == 2
    assert "add --force to replace it" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == "mine"
    assert not stub.report.passed


def test_a_report_is_written_through_a_link_and_a_pipe_and_never_over_a_device(
    stub: Comparison, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link, pipe = tmp_path / "link.html", tmp_path / "pipe.md"
    link.symlink_to(tmp_path / "elsewhere.html")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # the report fits into the pipe; a missing one reads as empty
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, "--html", link, "--markdown", pipe)
    report = os.read(reader, 1 << 16)
    os.close(reader)
    assert report.startswith(b"# Parity with the reference")
    assert ended.value.code == 7
    assert link.is_symlink()
    assert (tmp_path / "elsewhere.html").is_file()
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, "--html", "/dev/full", "--force")
    assert ended.value.code == 2
    assert "output /dev/full is a device" in " ".join(capsys.readouterr().err.split())
    assert Path("/dev/full").is_char_device()
    assert not stub.report.passed


def test_what_broke_is_said_once(
    stub: Comparison, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_command(monkeypatch, bundle)
    captured = capsys.readouterr()
    sentence = " ".join(verdict(stub).split())
    assert " ".join((captured.out + captured.err).split()).count(sentence) == 1
    assert captured.out.count("FIRST BROKEN") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--backend", "openvino"), "--backend is 'openvino', expected one of ort, rtx, tensorrt"),
        (("--backend", "rtx"), "the bundle has no rtx engines to compare; build them with: nerve-build engines BUNDLE"),
        (("--frames", "0"), "--frames is 0, expected 1 or more"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_runs(
    words: tuple[str, ...],
    says: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parity_cli, "_compare", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, *words)
    assert ended.value.code in (2, 4)
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_bundle_of_another_method_is_no_sibling(
    bundle: Path,
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parity_cli, "_compare", lambda *_: pytest.fail("it ran"))
    method = manifest.method.model_copy(update={"alpha": 0.5})
    tmp_path.joinpath("other").mkdir()
    write_manifest(tmp_path / "other", manifest.model_copy(update={"method": method}))
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, "--against", tmp_path / "other")
    assert ended.value.code == 2
    assert "is of another method: method differ" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_whole_command_compares_a_sound_bundle_with_itself(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, bundle, "--against", bundle, "--frames", "1", "--html", tmp_path / "r.html")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.count("taps agree with the reference") == 2
    assert len(pictures_of((tmp_path / "r.html").read_text(encoding="utf-8"))) == 28


def test_a_sound_report_says_so_in_one_sentence(broken: Comparison) -> None:
    sound = tuple(tap for tap in broken.report.taps if tap.passed)
    comparison = replace(broken, report=ParityReport("here", sound))
    assert verdict(comparison) == f"all {len(sound)} taps agree with the reference"
    assert {row.state for row in rows(comparison)} == {"passed"}


def test_a_pass_of_labels_that_prove_little_is_qualified(broken: Comparison) -> None:
    sure = next(tap for tap in broken.report.taps if tap.tensor == "labels_cold")
    for undecided, says in ((0.1, ""), (0.97, "; labels prove little, in 97% of a frame's pixels")):
        report = ParityReport("here", (replace(sure, passed=True, undecided=undecided),))
        found = verdict(replace(broken, report=report))
        assert found.startswith(f"all 1 taps agree with the reference{says}")
        assert ("prove little" in found) == bool(says)


def test_a_report_can_show_a_tap_whose_numbers_are_broken(broken: Comparison, tmp_path: Path) -> None:
    tap = compared("walk", "label_scores", 0, np.ones(2), np.array([1, np.nan]), Tolerance(0.9, 0.1))
    comparison = replace(broken, report=ParityReport("here", (tap,)))
    write_html(tmp_path / "r.html", [comparison])
    assert "inf" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert rows(comparison)[0].cells[9] == "1"
