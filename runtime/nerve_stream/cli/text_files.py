"""Class and template files: UTF-8 text, an entry a line.

In a class file each line is a class, its synonyms separated by `,` or `;`.
"""

from pathlib import Path

from nerve_runtime import UsageError
from nerve_runtime.vocabulary import refuse_odd_characters

CLASS_FILE_LIMIT_BYTES = 1_000_000


def read_class_file(path: Path) -> list[str]:
    """Read a class a line, as `read_text_lines` reads lines; `;` and `,` both separate synonyms.

    Raises:
        UsageError: the file is not usable; names the line where it can.
    """
    return [text.replace(";", ",") for _, text in read_text_lines(path, "class file")]


def read_text_lines(path: Path, kind: str) -> list[tuple[int, str]]:
    """Lines and their numbers; empty ones and what follows a `#` are left out; BOM and CRLF are accepted.

    Args:
        path: a UTF-8 file.
        kind: named in messages, such as "class file".

    Raises:
        UsageError: the file is missing, too large, has no line, or is not UTF-8 text; names the line where it can.
    """
    if not path.is_file():
        raise UsageError(f"{kind} {path} is not a file; expected UTF-8 text, one entry a line")
    if path.stat().st_size > CLASS_FILE_LIMIT_BYTES:
        raise UsageError(f"{kind} {path} is {path.stat().st_size} bytes, expected at most {CLASS_FILE_LIMIT_BYTES}")
    lines = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{kind} {path}, line {number}"
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{where} is not UTF-8 ({error.reason}); save the file as UTF-8") from error
        text = text.partition("#")[0].strip()
        if text:
            refuse_odd_characters(where, text)
            lines.append((number, text))
    if not lines:
        raise UsageError(f"{kind} {path} has no entry; expected one a line")
    return lines
