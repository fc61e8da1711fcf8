"""Reads commands and code out of a document: what is to be run, and what it must print."""

import re
from dataclasses import dataclass

FENCE = "```"
NOT_TESTED = re.compile(r"<!--\s*not tested:\s*(.*?)\s*-->")
PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a console block.

    Attributes:
        text: what is typed after the prompt; continued lines are joined as the shell joins them.
        output: what the README shows below it, empty when it shows nothing. A line `...` stands for any lines.
        line: where it stands in the README, from 1.
        not_tested: why it is not run, or None when it is.
    """

    text: str
    output: str
    line: int
    not_tested: str | None


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language (may be empty), its lines, the line of its fence, and its reason not to be run."""

    language: str
    lines: tuple[str, ...]
    line: int
    not_tested: str | None


def commands(markdown: str) -> list[Command]:
    """Every command of every `console` block, in order.

    Raises:
        ValueError: a block is not closed, begins with something else than a prompt, or gives no reason for not being run.
    """
    return [command for block in blocks(markdown) if block.language == "console" for command in _in_block(block)]


def blocks(markdown: str) -> list[Block]:
    """Every fenced block, in order.

    Raises:
        ValueError: a block is not closed, or a `not tested` comment gives no reason.
    """
    found: list[Block] = []
    opened: int | None = None
    language, reason = "", None
    body: list[str] = []
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = line.strip().startswith(FENCE)
        if opened is None and fence:
            opened, language, body = number, line.strip().removeprefix(FENCE).strip(), []
        elif opened is not None and fence:
            found.append(Block(language, tuple(body), opened, reason))
            opened, reason = None, None
        elif opened is not None:
            body.append(line)
        elif line.strip():
            reason = _reason(line, number)
    if opened is not None:
        raise ValueError(f"line {opened}: the block that begins here is never closed")
    return found


def matches(printed: str, shown: str) -> bool:
    """Whether what a command printed is what the README shows; a line `...` in the README stands for any lines."""
    if not shown:
        return True
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in _lines(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def make_targets(command: str) -> list[str] | None:
    """The targets that a `make` command names, without options and variables; None when it is another command."""
    words = command.split()
    if not words or words[0] != "make":
        return None
    unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", "", command).split()[1:]
    return [word for word in unquoted if "=" not in word and not word.startswith("-")]


def _reason(line: str, number: int) -> str | None:
    comment = NOT_TESTED.fullmatch(line.strip())
    if comment is None:
        return None
    if not comment.group(1):
        raise ValueError(f"line {number}: a block is not tested, but the comment gives no reason")
    return comment.group(1)


def _in_block(block: Block) -> list[Command]:
    found: list[Command] = []
    rest = list(enumerate(block.lines, block.line + 1))
    while rest:
        number, line = rest.pop(0)
        if not line.startswith(PROMPT):
            raise ValueError(
                f"line {number}: a console block begins with {line!r}, expected a command after {PROMPT!r}"
            )
        text = line.removeprefix(PROMPT)
        while text.endswith("\\") and rest:
            text = f"{text[:-1].rstrip()} {rest.pop(0)[1].strip()}"
        output: list[str] = []
        while rest and not rest[0][1].startswith(PROMPT):
            output.append(rest.pop(0)[1])
        found.append(Command(text.strip(), "\n".join(output).strip("\n"), number, block.not_tested))
    return found


def _lines(text: str) -> list[str]:
    """The lines of a text without the blanks at their ends and without empty lines around them."""
    return [line.rstrip() for line in text.strip("\n").splitlines()]
