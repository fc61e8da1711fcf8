"""What a comparison says, for people: one HTML file that needs nothing else, Markdown with pictures beside it, a table."""

import base64
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nerve_export.parity.album import Comparison, Picture
from nerve_export.parity.measures import CHAIN, ParityReport, Tap
from nerve_runtime.atomic import write_bytes_whole

SYMBOLS = {
    "text_embeddings": "text embeddings",
    "latent": "latent",
    "features": "CLIP patch features",
    "seed_scores": "G, seed scores",
    "head_affinity": "B, affinity per head",
    "local_weights": "W, local weights",
    "head_entropies": "H, head entropies",
    "head_weights": "w, head weights",
    "affinity": "S, mixed affinity",
    "label_scores": "P, label scores",
    "labels": "labels",
    "confidence": "confidence",
    "label_scores_cold": "P, all stages in a row, first frame",
    "label_scores_warm": "P, all stages in a row, warm frame",
    "labels_cold": "labels, all stages in a row, first frame",
    "labels_warm": "labels, all stages in a row, warm frame",
}
"""How the method calls a tensor."""
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
STYLE = """
:root{color-scheme:light dark;--ink:#1c2230;--soft:#5d6678;--page:#f6f7f9;--card:#fff;--line:#e2e5ea;--good:#14804a;
--goodback:#e3f5eb;--bad:#b42318;--badback:#fdeceb;--first:#fff4d6}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa4b5;--page:#11141a;--card:#191e27;--line:#2b3240;
--good:#5fd39a;--goodback:#14321f;--bad:#ff8a80;--badback:#3a1917;--first:#3b3010}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:0}p{margin:6px 0}.soft{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px;margin-top:24px}
.head{display:flex;gap:12px;align-items:center;flex-wrap:wrap}
.chip{font-weight:600;font-size:13px;padding:2px 10px;border-radius:99px;white-space:nowrap}
.passed{color:var(--good);background:var(--goodback)}.failed{color:var(--bad);background:var(--badback)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:14px 0}dt{color:var(--soft)}dd{margin:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600}tr.first td{background:var(--first)}td.number{text-align:right}
.banner{border-left:4px solid var(--bad);background:var(--badback);padding:10px 14px;border-radius:6px;margin:14px 0}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:18px;margin-top:18px}
figure{margin:0}img{width:100%;image-rendering:pixelated;border-radius:8px;border:1px solid var(--line);display:block}
figcaption{font-size:13px;color:var(--soft);margin-top:6px}
"""


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
    """The tensor in the method's words; Q and K with the name of their layer."""
    found = re.fullmatch(r"([qk])(\d+)", tap.tensor)
    if found and int(found[2]) < len(layers):
        return f"{found[1].upper()} of {layers[int(found[2])]}"
    return SYMBOLS.get(tap.tensor, tap.tensor)


def verdict(comparison: Comparison) -> str:
    """One sentence: all is well, or what broke first."""
    report = comparison.report
    first = report.first_broken()
    if first is None:
        return f"all {len(report.taps)} taps agree with the reference{_doubt(report)}"
    failed = sum(not tap.passed for tap in report.taps)
    where = "all stages in a row" if first.stage == CHAIN else f"stage {first.stage}"
    return (
        f"{failed} of {len(report.taps)} taps break; the first in the order of the method is "
        f"{tensor_name(first, comparison.layers)} ({where}, frame {first.frame})"
    )


def _doubt(report: ParityReport) -> str:
    """What to add where labels prove little, as those of random weights do."""
    undecided = max((tap.undecided for tap in report.taps), default=0.0)
    if undecided <= DOUBTFUL_SHARE:
        return ""
    return f"; labels prove little, in {undecided:.0%} of a frame's pixels the reference itself all but draws"


def _cells(tap: Tap, comparison: Comparison) -> tuple[str, ...]:
    opinion = comparison.opinions.get((tap.stage, tap.tensor)) if tap.frame == 0 else None
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
        "" if opinion is None else f"{'ok' if opinion.passed else 'BROKEN'}, mean {opinion.mean_abs:.1e}",
    )


def machine() -> Mapping[str, str]:
    """Where the comparison ran: system, processors, and versions of the tools."""
    found = {name: _version(name) for name in REPORT_TOOLS}
    tools = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    system = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    return {"compared on": system, "compared with": tools}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def write_html(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write one file with everything in it: style, tables and pictures.

    Raises:
        ResourceError: it cannot be written.
    """
    body = "".join(_html_section(comparison) for comparison in comparisons)
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in machine().items())
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Parity</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body><main>'
        f'<h1>Parity with the reference</h1><p class="soft">Each stage alone on the reference\'s inputs, in the order of '
        f"the method, then all stages in a row.</p><dl>{facts}</dl>{body}</main></body></html>\n"
    )
    write_bytes_whole(path, page.encode("utf-8", "replace"))


def _html_section(comparison: Comparison) -> str:
    passed = comparison.report.passed
    chip = f'<span class="chip {"passed" if passed else "failed"}">{"passed" if passed else "broken"}</span>'
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in comparison.facts.items())
    banner = f'<p class="{"soft" if passed else "banner"}">{escape(verdict(comparison))}</p>'
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    table = "".join(_html_row(row) for row in rows(comparison))
    pictures = "".join(_html_picture(picture) for picture in comparison.pictures)
    return (
        f'<section><div class="head"><h2>{escape(comparison.bundle)}</h2>{chip}</div><dl>{facts}</dl>{banner}'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{table}</tbody></table></div>'
        f'<div class="pictures">{pictures}</div></section>'
    )


def _html_row(row: Row) -> str:
    verdict_cell, *others = row.cells
    chip = f'<td><span class="chip {"passed" if row.state == "passed" else "failed"}">{verdict_cell}</span></td>'
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
    return f"<tr{' class=first' if row.state == 'first' else ''}>{chip}{cells}</tr>"


def _html_picture(picture: Picture) -> str:
    source = "data:image/png;base64," + base64.b64encode(picture.content).decode()
    caption = escape(picture.caption)
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def write_markdown(path: Path, comparisons: Sequence[Comparison]) -> tuple[Path, ...]:
    """Write Markdown, and its pictures as PNG files in a folder beside it, NAME_pictures; returns their paths.

    Raises:
        ResourceError: a file cannot be written.
    """
    folder = path.parent / f"{path.stem}_pictures"
    lines = ["# Parity with the reference", ""]
    lines += [f"- {name}: {value}" for name, value in machine().items()]
    written = []
    for number, comparison in enumerate(comparisons, 1):
        stem = f"{number}_" + re.sub(r"[^A-Za-z0-9_.-]", "_", comparison.bundle)
        lines += ["", *_markdown_table(comparison), ""]
        for picture in comparison.pictures:
            place = folder / f"{stem}_{picture.name}.png"
            write_bytes_whole(place, picture.content)
            written.append(place)
            lines += [f"![{picture.caption}]({folder.name}/{place.name})", "", picture.caption, ""]
    write_bytes_whole(path, "\n".join(lines).encode("utf-8", "replace"))
    return tuple(written)


def _markdown_table(comparison: Comparison) -> Iterator[str]:
    yield f"## {comparison.bundle}: {'passed' if comparison.report.passed else 'broken'}"
    yield ""
    for name, value in comparison.facts.items():
        yield f"- {name}: {value}"
    yield ""
    yield f"**{verdict(comparison)}**" if not comparison.report.passed else verdict(comparison)
    yield ""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + " --- |" * len(COLUMNS)
    for row in rows(comparison):
        cells = [cell.replace("|", "\\|") for cell in row.cells]
        yield "| " + " | ".join(f"**{cell}**" if row.state == "first" and cell else cell for cell in cells) + " |"
