"""What a preset file may hold, and the line of whatever it may not."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from nerve_ref.params import NerveParams
from nerve_runtime.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ANY_CLASSES = "person; dog, puppy; car; road; tree; sky; building; grass"
"""What parity frames are segmented with where the vocabulary is open."""
NULL = "null"
"""How a configuration in TOML, which has no such value, writes JSON's null."""
MOST_BYTES = 1_000_000
HELP = "docs/presets.md says what each field means"
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(BaseModel):
    """Where one network comes from: `name`, `hub` with `revision`, `path`, or a configuration alone."""

    model_config = _STRICT

    name: str | None = None
    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")] | None = None
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    path: Annotated[str, Field(min_length=1)] | None = None
    licence: Annotated[str, Field(min_length=1)] | None = None
    config: dict[str, Any] | None = None


class Networks(BaseModel):
    """The networks by what they do in the method."""

    model_config = _STRICT

    clip: Source
    affinity: Source
    vae: Source | None = None


_CONSTANTS: dict[str, Any] = {
    field.name: (get_type_hints(NerveParams)[field.name], field.default) for field in fields(NerveParams)
}
Method: Any = create_model("Method", __config__=_STRICT, **_CONSTANTS)
"""The constants of the method: fields, types and defaults are those of `NerveParams`."""


class PresetFile(BaseModel):
    """One preset file."""

    model_config = _STRICT

    about: Annotated[str, Field(min_length=1)]
    parity_classes: Annotated[str, Field(min_length=1)] = ANY_CLASSES
    networks: Networks
    method: Method = Method()


class PresetText:
    """The text of a preset file, which knows the line of each field.

    Attributes:
        path: of the file, for messages.
    """

    def __init__(self, path: Path, text: str) -> None:
        """Take the file's path and content."""
        self.path, self._text = path, text
        self._lines = _lines_of_fields(text)

    def parsed(self) -> PresetFile:
        """The content, every field of the type that it must have.

        Raises:
            UsageError: it is no TOML, or a field is unknown, missing or of another type; with its line.
        """
        try:
            table = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{self.path} is no TOML: {error}; {HELP}") from error
        try:
            # As JSON, because strict validation takes its arrays for tuples.
            return PresetFile.model_validate_json(json.dumps(table, default=str))
        except ValidationError as error:
            first = error.errors()[0]
            place = [str(part) for part in first["loc"] if not isinstance(part, int)]
            self.refuse(place, _reason(place, first))

    def refuse(self, place: Sequence[str], reason: str) -> NoReturn:
        """Refuse the file for one of its fields.

        Args:
            place: names of the tables around the field, and its own.
            reason: what it is and what is expected.

        Raises:
            UsageError: always; "file:line: field reason".
        """
        known = next((place[:end] for end in range(len(place), 0, -1) if tuple(place[:end]) in self._lines), [])
        line = self._lines.get(tuple(known), 1)
        raise UsageError(f"{self.path}:{line}: {'.'.join(place)} {reason}; {HELP}")


def _reason(place: Sequence[str], error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return f"is no field of a preset, expected {_expected(place[:-1])}"
    if error["type"] == "missing":
        return "has too few values" if isinstance(error["loc"][-1], int) else "is missing"
    return f"is {error['input']!r}: {error['msg'].lower()}"


def _expected(table: Sequence[str]) -> str:
    """The fields that a table may hold."""
    model: Any = PresetFile
    for name in table:
        model = {"networks": Networks, "method": Method}.get(name, Source)
    return f"one of: {', '.join(model.model_fields)}"


_HEADER = re.compile(r"\s*\[\s*([\w.\s\"-]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([\w\"-]+(?:\s*\.\s*[\w\"-]+)*)\s*=")


def _lines_of_fields(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, of each table and field that begins a line; of fields in braces that of the brace."""
    table: tuple[str, ...] = ()
    lines: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = place = _names(header[1])
        elif key := _KEY.match(line):
            place = (*table, *_names(key[1]))
        else:
            continue
        for end in range(1, len(place) + 1):
            lines.setdefault(place[:end], number)
    return lines


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip('"') for part in dotted.split("."))


def read_preset_text(path: Path) -> PresetText:
    """The text of a preset file.

    Raises:
        UsageError: it cannot be read, or is larger than 1 MB.
    """
    try:
        content = path.read_bytes()
        if len(content) > MOST_BYTES:
            raise UsageError(f"{path} has {len(content)} bytes, expected at most {MOST_BYTES}; give a preset file")
        return PresetText(path, content.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; check the path of the preset") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text ({error}); save it as UTF-8") from error


def preset_toml(content: Mapping[str, Any]) -> str:
    """A preset as the text of its file: plain fields, then tables; None in a configuration becomes "null".

    Args:
        content: fields and tables of strings, numbers, booleans, lists and None.
    """
    return "\n".join(_toml_lines(content, ())) + "\n"


def _toml_lines(table: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    tables = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in table.items() if name not in tables}
    lines = ["", f"[{'.'.join(place)}]"] if place and (plain or not tables) else []
    lines += [f"{name} = {json.dumps(NULL if value is None else value)}" for name, value in plain.items()]
    for name, inner in tables.items():
        lines += _toml_lines(inner, (*place, name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)))
    return lines


def without_nulls(value: Any) -> Any:
    """A configuration from TOML with None where it writes "null"."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return None if value == NULL else value
