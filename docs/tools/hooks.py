"""Hooks of `make docs`: texts from outside docs/ become pages, and commands are described by what they say of themselves.

`PAGES` are the texts; links between them lead to the pages, and links to any other file outside docs/ become its name.
A page with `<!-- reference: COMMAND -->` gets the reference of that command. `tests/contracts/test_docs.py` calls both.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "native.md": "runtime/native/README.md",
    "docker.md": "docker/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site that are texts elsewhere in the repository."""
SHIM = "iframe-worker.js"
"""What lets a browser search pages that were opened as files; the Makefile fetches it."""
PROGRAMS = {
    "nerve-build": "nerve_export.cli.build",
    "nerve-segment": "nerve_stream.cli.segment",
    "nerve-bench": "nerve_bench.cli.main",
    "nerve-vocab": "nerve_stream.cli.vocabulary",
}
REFERENCE = re.compile(r"<!-- reference: ([\w-]+) -->")
CODE_IN_TABLE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
"""GitHub wants the bar escaped there, Python-Markdown shows the escape."""
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^()\s]+)\)")
EXTERNAL = re.compile(r"(?:https?:)?//")
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=[\"']?([^\"'\s>]+)|<link\b[^>]*?\bhref=[\"']?([^\"'\s>]+)"
)
KINDS = {"int": "INT", "float": "NUMBER", "Path": "PATH", "list[pathlib.Path]": "PATH", "tuple[int, int]": "INT INT"}
TYPERS_OWN = {"--install-completion", "--show-completion", "--help"}


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages whose texts lie outside docs/, the examples, and what makes search work without a server."""
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for path in _examples():
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    shim = ROOT / "build" / "docs" / SHIM
    files.append(File.generated(config, SHIM, content=shim.read_text(encoding="utf-8") if shim.is_file() else ""))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Put the reference of commands into their pages, and lead links to pages."""
    name = page.file.src_uri
    markdown = REFERENCE.sub(lambda match: command_reference(match[1]), markdown)
    markdown = CODE_IN_TABLE.sub(lambda match: match[0].replace("\\|", "|"), markdown)
    return relinked(markdown, name, PAGES.get(name, f"docs/{name}"))


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """Let no browser break a line after the dashes of an option."""
    return re.sub(r"<code>(--[\w-]+)([^\w-])", r'<code><span class="option">\1</span>\2', html)


def on_post_build(*, config: Any) -> None:
    """Refuse a site that loads anything from elsewhere.

    Raises:
        SystemExit: a page has such a script, style, font or picture.
    """
    found = list(loaded_from_elsewhere(Path(config.site_dir)))
    if found:
        raise SystemExit("the site loads from elsewhere, expected nothing: " + ", ".join(found))


def loaded_from_elsewhere(site: Path) -> Iterator[str]:
    """What pages and styles of a site would fetch from other hosts, as `file: address`."""
    for path in sorted(site.rglob("*.html")):
        for match in LOADED.finditer(path.read_text(encoding="utf-8")):
            if EXTERNAL.match(address := match[1] or match[2]) and 'rel="canonical"' not in match[0]:
                yield f"{path.relative_to(site)}: {address}"
    for path in sorted(site.rglob("*.css")):
        for address in re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: {address}"


def relinked(markdown: str, page: str, source: str) -> str:
    """The text of a page with links as the site has them.

    Args:
        markdown: the text.
        page: its place in the site, such as `web.md`.
        source: its place in the repository, from which its links count.
    """
    places = {f"docs/{name}": name for name in _files_of_docs()} | {text: name for name, text in PAGES.items()}
    places |= {f"examples/{path.name}": f"examples/{path.name}" for path in _examples()}

    def link(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or ":" in target:
            return match[0]
        place = places.get(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if place is None:  # a file of the repository that is no page
            return words
        relative = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{picture}[{words}]({relative}{'#' if anchor else ''}{anchor})"

    parts = re.split(r"(?m)(^```.*?^```$)", markdown, flags=re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def _examples() -> list[Path]:
    """The programs and notebooks, which the site offers as files."""
    return [path for path in sorted((ROOT / "examples").iterdir()) if path.suffix in (".py", ".ipynb")]


def _files_of_docs() -> list[str]:
    docs = ROOT / "docs"
    return [path.relative_to(docs).as_posix() for path in docs.rglob("*") if path.is_file()]


def command_reference(program: str) -> str:
    """Every command of a program with its arguments and options, in Markdown, as its `--help` has them.

    Raises:
        KeyError: no program has this name.
    """
    import typer

    module = import_module(PROGRAMS[program])
    (app,) = (value for value in vars(module).values() if isinstance(value, typer.Typer))
    return "\n\n".join(_described(typer.main.get_command(app), program))


def _described(command: Any, words: str) -> Iterator[str]:
    if " " in words:
        yield f"## {words}"
    children = getattr(command, "commands", {})
    if command.help:
        yield _paragraphs(command.help)
    arguments = [_argument(each) for each in command.params if each.param_type_name == "argument"]
    yield "    " + " ".join([words, *(["COMMAND"] if children else []), *arguments, "[OPTIONS]"])
    yield from _table("argument", command, lambda each: each.param_type_name == "argument")
    groups = dict.fromkeys(_group(each) for each in command.params if _is_option(each))
    for group in groups:
        if len(groups) > 1 and group != "Options":
            yield f"**{group}**"
        yield from _table("option", command, partial(_is_option_of, group))
    for name, child in children.items():
        if not child.hidden:
            yield from _described(child, f"{words} {name}")


def _is_option(parameter: Any) -> bool:
    return parameter.param_type_name == "option" and not TYPERS_OWN & set(parameter.opts)


def _is_option_of(group: str, parameter: Any) -> bool:
    return _is_option(parameter) and _group(parameter) == group


def _group(parameter: Any) -> str:
    return getattr(parameter, "rich_help_panel", None) or "Options"


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _table(heading: str, command: Any, wanted: Callable[[Any], bool]) -> Iterator[str]:
    rows = [_row(each) for each in command.params if wanted(each) and not getattr(each, "hidden", False)]
    if rows:
        yield "\n".join([f"| {heading} | meaning | default |", "|---|---|---|", *rows])


def _row(parameter: Any) -> str:
    cells = [_names(parameter), _paragraphs(parameter.help or "").replace("\n\n", " "), _default(parameter)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names[:-1]} {_value(parameter)}`"


def _value(parameter: Any) -> str:
    """What follows an option, such as `FORMAT=PATH` or `INT`."""
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", str)
    return parameter.metavar or KINDS.get(str(annotation), KINDS.get(getattr(annotation, "__name__", ""), "TEXT"))


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    value = parameter.default
    if value in (None, False, "", (), []) or callable(value):
        return ""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _paragraphs(text: str) -> str:
    """A help text with each paragraph on one line; what looks like a tag or a star is meant as it stands."""
    joined = "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))
    return re.sub(r"([<*_])", r"\\\1", joined)
