"""Reports of comparisons: one self-contained HTML file, or Markdown with pictures beside it."""

import base64
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve_export.parity.album import Comparison
from nerve_export.parity.measures import CHAIN, ParityReport, Tap
from nerve_runtime.atomic import write_bytes_whole

if TYPE_CHECKING:
    import jinja2

SYMBOLS = {
    "text_embeddings": "text embeddings",
    "latent": "latent",
    "features": "CLIP patch features",
    "patch_features": "CLIP patch features, of the one tower",
    "seed_scores": "G, seed scores",
    "head_affinity": "B, affinity per head",
    "local_weights": "W, local weights",
    "head_entropies": "H, head entropies",
    "head_weights": "w, head weights",
    "affinity": "S, mixed affinity",
    "label_scores": "P, label scores",
    "labels": "labels",
    "confidence": "confidence",
    "finite": "whether P is finite",
    "label_scores_cold": "P, all stages in a row, first frame",
    "label_scores_warm": "P, all stages in a row, warm frame",
    "labels_cold": "labels, all stages in a row, first frame",
    "labels_warm": "labels, all stages in a row, warm frame",
}
"""The method's name of each tensor."""
DOUBTFUL_SHARE = 0.2
"""Share of undecided pixels beyond which a pass of labels is qualified."""
REPORT_TOOLS = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "polygraphy", "tensorrt", "tensorrt-rtx")
COLUMNS = (
    "",
    "stage",
    "tensor",
    "frame",
    "cosine",
    "max abs",
    "p99 abs",
    "agreement",
    "tolerance",
    "NaN/Inf",
    "polygraphy",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of taps, as text; `state` is "passed", "failed" or "first", the first that failed."""

    state: str
    cells: tuple[str, ...]


def rows(comparison: Comparison) -> list[Row]:
    """The taps of a bundle in the order of the method, as text."""
    first = comparison.report.first_broken()
    lines = []
    for tap in comparison.report.in_method_order():
        state = "first" if tap is first else "passed" if tap.passed else "failed"
        lines.append(Row(state, _cells(tap, comparison)))
    return lines


def tensor_name(tap: Tap, layers: Sequence[str]) -> str:
    """The method's name of a tensor; Q and K with the name of their layer."""
    match = re.fullmatch(r"([qk])(\d+)", tap.tensor)
    if match and int(match[2]) < len(layers):
        return f"{match[1].upper()} of {layers[int(match[2])]}"
    return SYMBOLS.get(tap.tensor, tap.tensor)


def verdict(comparison: Comparison) -> str:
    """One sentence: all taps agree, or which one broke first."""
    report = comparison.report
    first = report.first_broken()
    if first is None:
        return f"all {len(report.taps)} taps agree with the reference{_undecided_note(report)}"
    failed = sum(not tap.passed for tap in report.taps)
    where = "all stages in a row" if first.stage == CHAIN else f"stage {first.stage}"
    return (
        f"{failed} of {len(report.taps)} taps break; the first in the order of the method is "
        f"{tensor_name(first, comparison.layers)} ({where}, frame {first.frame})"
    )


def _undecided_note(report: ParityReport) -> str:
    """What to add where labels prove little, as with random weights."""
    undecided = max((tap.undecided for tap in report.taps), default=0.0)
    if undecided <= DOUBTFUL_SHARE:
        return ""
    return f"; labels prove little, in {undecided:.0%} of a frame's pixels the reference's two best classes are nearly equal"


def _cells(tap: Tap, comparison: Comparison) -> tuple[str, ...]:
    result = comparison.polygraphy.get((tap.stage, tap.tensor)) if tap.frame == 0 else None
    limits = []
    if tap.cosine_floor is not None:
        limits.append(f"cos >= {tap.cosine_floor:g}")
    if tap.max_abs_limit is not None:
        limits.append(f"abs <= {tap.max_abs_limit:.3g}")
    if tap.agreement_floor is not None:
        limits.append(f"equal >= {tap.agreement_floor:.1%}")
    undecided = f" ({tap.undecided:.1%} undecided)" if tap.undecided else ""
    return (
        "ok" if tap.passed else "BROKEN",
        tap.stage,
        tensor_name(tap, comparison.layers),
        str(tap.frame),
        "" if tap.cosine is None else f"{tap.cosine:.7f}",
        f"{tap.max_abs:.2e}",
        f"{tap.p99_abs:.2e}",
        "" if tap.agreement is None else f"{tap.agreement:.3%}{undecided}",
        ", ".join(limits),
        str(tap.not_finite) if tap.not_finite else "",
        "" if result is None else f"{'ok' if result.passed else 'BROKEN'}, mean {result.mean_abs:.1e}",
    )


def machine() -> Mapping[str, str]:
    """Where the comparison ran: system, processors, and versions of the tools."""
    versions = {name: _version(name) for name in REPORT_TOOLS}
    tools = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    system = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    return {"compared on": system, "compared with": tools}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def page_templates(package: str = __package__) -> "jinja2.Environment":
    """The templates of a package, beside those of the parity report; HTML is escaped, Markdown is not."""
    import jinja2

    folders = (jinja2.PackageLoader(package), jinja2.PackageLoader(__package__))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment


def write_html(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write one file with everything in it: style, tables and pictures.

    Raises:
        ResourceError: it cannot be written.
    """
    write_bytes_whole(path, _rendered("report.html", comparisons))


def write_markdown(path: Path, comparisons: Sequence[Comparison]) -> tuple[Path, ...]:
    """Write Markdown, and its pictures as PNG files in a folder beside it, NAME_pictures; returns their paths.

    Raises:
        ResourceError: a file cannot be written.
    """
    folder = path.parent / f"{path.stem}_pictures"
    files: dict[tuple[int, str], Path] = {}
    for number, comparison in enumerate(comparisons, 1):
        stem = f"{number}_" + re.sub(r"[^A-Za-z0-9_.-]", "_", comparison.bundle)
        files |= {(number, picture.name): folder / f"{stem}_{picture.name}.png" for picture in comparison.pictures}
        for picture in comparison.pictures:
            write_bytes_whole(files[number, picture.name], picture.content)
    write_bytes_whole(path, _rendered("report.md", comparisons, files=files))
    return tuple(files.values())


def _rendered(template: str, comparisons: Sequence[Comparison], **values: Any) -> bytes:
    page = page_templates().get_template(template)
    values |= {"comparisons": comparisons, "machine": machine(), "columns": COLUMNS, "rows": rows, "verdict": verdict}
    return page.render(values).encode("utf-8", "replace")
