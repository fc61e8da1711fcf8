"""Write `src/unicode_tables.inc` from Python's own Unicode database: `python runtime/native/tools/unicode_tables.py`.

Classes of characters are runs of equal properties, mappings are differences from one entry to the next; numbers are
stored seven bits a byte, lowest first, the eighth bit saying that more follow. `src/unicode.cc` reads them.
"""

import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent.parent / "src" / "unicode_tables.inc"
CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)  # taken apart and put together by arithmetic
PYTHON_SPACES_ONLY = range(0x1C, 0x20)  # str.isspace of the separators FS to US, which White_Space leaves out
JOIN_CONTROLS = range(0x200C, 0x200E)
# Alphabetic without being a letter, a letter number or a mark: circled and squared Latin letters.
ALPHABETIC_SYMBOLS = (
    range(0x24B6, 0x24EA),
    range(0x1F130, 0x1F14A),
    range(0x1F150, 0x1F16A),
    range(0x1F170, 0x1F18A),
)
SCRIPTS = {"LATIN": 1, "GREEK": 2, "CYRILLIC": 3}
COLUMNS = 360
"""Long lines: nobody reads them, and the file stays short."""


def claims(letter: str) -> tuple[bool, ...]:
    """What `src/unicode.cc` asks of a character, in the order of its constants."""
    category, code = unicodedata.category(letter), ord(letter)
    is_word = category[0] in "LM" or category in ("Nd", "Nl", "Pc") or code in JOIN_CONTROLS
    is_cased = f"{letter}\u03a3".lower()[-1] == "\u03c2"  # the sigma after it is a final one
    is_case_ignorable = not is_cased and f"A{letter}\u03a3".lower()[-1] == "\u03c2"
    return (
        category == "Cc",
        letter.isspace(),
        letter.isspace() and code not in PYTHON_SPACES_ONLY,
        is_word or any(code in symbols for symbols in ALPHABETIC_SYMBOLS),
        category[0] == "L",
        category[0] == "N",
        letter.isalnum(),
        letter.isdecimal(),
        letter.isprintable(),
        is_cased,
        is_case_ignorable,
    )


def properties(code: int) -> int:
    """The claims as bits, and two bits for the script that a character's name begins with."""
    letter = chr(code)
    script = SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0], 0)
    held = claims(letter)
    return sum(1 << bit for bit, claim in enumerate(held) if claim) | script << len(held)


def varint(number: int) -> bytes:
    """A whole number from 0, seven bits a byte."""
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def zigzag(number: int) -> bytes:
    """A whole number of either sign: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return varint(2 * number if number >= 0 else -2 * number - 1)


def runs(value_of: Callable[[int], int]) -> list[tuple[int, int]]:
    """Lengths and values of runs of equal values over all code points."""
    found: list[tuple[int, int]] = []
    for code in range(CODE_POINTS):
        value = value_of(code)
        if found and found[-1][1] == value:
            found[-1] = (found[-1][0] + 1, value)
        else:
            found.append((1, value))
    return found


def run_bytes(value_of: Callable[[int], int]) -> tuple[bytes, list[int]]:
    """Runs as (length, index into the distinct values), and these values."""
    found = runs(value_of)
    values = sorted({value for _, value in found})
    return b"".join(varint(length) + varint(values.index(value)) for length, value in found), values


def mapping_bytes(entries: Iterable[tuple[int, Sequence[int], int]]) -> bytes:
    """Mappings as (gap to the one before, count and 2 flags, change of the first offset, differences)."""
    written, code_before, offset_before = [], 0, 0
    for code, targets, flags in entries:
        offset = targets[0] - code
        written += [varint(code - code_before), varint(len(targets) << 2 | flags), zigzag(offset - offset_before)]
        written += [zigzag(after - before) for before, after in pairwise(targets)]
        code_before, offset_before = code, offset
    return b"".join(written)


def characters() -> Iterable[int]:
    """Every code point that a text may hold."""
    return (code for code in range(CODE_POINTS) if code not in SURROGATES)


def changed(change: Callable[[str], str], usual: Callable[[str], str]) -> bytes:
    """The characters that `change` turns into something else than `usual` does."""
    return mapping_bytes(
        (code, [ord(part) for part in change(chr(code))], 0)
        for code in characters()
        if change(chr(code)) != usual(chr(code))
    )


def decompositions() -> Iterable[tuple[int, list[int], int]]:
    """Each single step; flag 1: for NFKC only, flag 2: not put together again."""
    for code in characters():
        parts = unicodedata.decomposition(chr(code)).split()
        if not parts or code in HANGUL:
            continue
        is_compatible = parts[0].startswith("<")
        targets = [int(part, 16) for part in parts[is_compatible:]]
        is_excluded = unicodedata.normalize("NFC", chr(code)) != chr(code)
        yield code, targets, is_compatible | is_excluded << 1


def array(name: str, kind: str, numbers: Iterable[int]) -> str:
    """A C array, its numbers in long lines."""
    lines, line = [], ""
    for number in numbers:
        if len(line) > COLUMNS:
            lines.append(line)
            line = ""
        line += f"{number},"
    return f"const {kind} {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def tables() -> str:
    """The text of the generated file."""
    kinds, kind_values = run_bytes(properties)
    classes, class_values = run_bytes(lambda code: unicodedata.combining(chr(code)))
    parts = [
        "// Written by tools/unicode_tables.py from Python's unicodedata. Do not edit.\n",
        f'constexpr char UNICODE_VERSION[] = "{unicodedata.unidata_version}";\n',
        array("PROPERTY_VALUES", "uint16_t", kind_values),
        array("PROPERTY_RUNS", "uint8_t", kinds),
        array("COMBINING_VALUES", "uint16_t", class_values),
        array("COMBINING_RUNS", "uint8_t", classes),
        array("LOWER_CASE", "uint8_t", changed(str.lower, str)),
        array("CASE_FOLDING", "uint8_t", changed(str.casefold, str.lower)),
        array("DECOMPOSITIONS", "uint8_t", mapping_bytes(decompositions())),
    ]
    return "".join(parts)


if __name__ == "__main__":
    OUTPUT.write_text(tables(), encoding="utf-8")
    sys.stdout.write(f"{OUTPUT}\n")
