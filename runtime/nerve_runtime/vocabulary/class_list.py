"""Class names as a person writes them, checked before anything is tokenised.

In one string `;` separates classes and `,` synonyms: `ladybug; soccer ball, football; road`. The first word of a class is
the name shown for it.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nerve_runtime.errors import UsageError
from nerve_runtime.labels import BACKGROUND_NAME, CLASSES_LIMIT

PROMPT_CHARACTERS_LIMIT = 1000  # byte-pair encoding takes 0.7 s for a megabyte without spaces
CLASSES_EXAMPLE = " in the order of the labels, such as ['bus', 'road']"

logger = logging.getLogger("nerve_runtime")


@dataclass(frozen=True, slots=True)
class ClassList:
    """Checked class names.

    Attributes:
        synonyms: for each class its words, the first being the name shown.
        has_background: class 0 holds the background words and is called "background".
    """

    synonyms: tuple[tuple[str, ...], ...]
    has_background: bool = False

    def __post_init__(self) -> None:
        for number, words in enumerate(self.synonyms, start=1):
            for word in strings_of(f"class {number} of a ClassList", words):
                refuse_odd_characters(f"class {number}", word)

    @property
    def names(self) -> tuple[str, ...]:
        """The name shown for each class."""
        shown = tuple(words[0] for words in self.synonyms)
        return (BACKGROUND_NAME, *shown[1:]) if self.has_background else shown

    @classmethod
    def of(cls, classes: Iterable[str], background: Iterable[str] = (), *, strict: bool = False) -> "ClassList":
        """Check class names; each may list synonyms, as in "soccer ball, football".

        Args:
            classes: one string a class, in the order of the labels.
            background: words for everything that is none of the classes; together they become class 0.
            strict: refuse what is otherwise a warning.

        Raises:
            UsageError: there are no classes or too many, they are no iterable of strings, or a word is empty, given twice or
                not plain text. The message names the class's number, counted from 1.
        """
        classes, background = strings_of("the class list", classes), strings_of("the background", background)
        active = len(classes) + bool(background)
        if not classes:
            raise UsageError("the class list is empty; name at least two classes, such as 'dog; grass'")
        if active > CLASSES_LIMIT:
            raise UsageError(
                f"{active} classes are active, background included, expected at most {CLASSES_LIMIT}; "
                "split the list into several runs"
            )
        named = [(f"class {number}", text) for number, text in enumerate(classes, start=1)]
        groups = [tuple(_checked_word(where, word, strict=strict) for word in text.split(",")) for where, text in named]
        places = [where for where, _ in named]
        if background:
            words = [word for text in background for word in text.replace(";", ",").split(",")]
            groups.insert(0, tuple(_checked_word(BACKGROUND_NAME, word, strict=strict) for word in words))
            places.insert(0, BACKGROUND_NAME)
        _refuse_duplicates(places, groups)
        return cls(tuple(groups), has_background=bool(background))

    def refuse_without_rival(self) -> None:
        """Raise a UsageError for a single class, which every pixel would get; shows what its commas may have meant."""
        if len(self.synonyms) == 1:
            listed = "; ".join(self.synonyms[0])
            meant = f" (classes are separated by ';' and synonyms by ',': '{listed}')" if ";" in listed else ""
            because = f"the only class {self.names[0]!r} has no rival, so every pixel would get it"
            raise UsageError(f"{because}; add classes{meant}, or background words")


def strings_of(what: str, texts: object, example: str = CLASSES_EXAMPLE) -> list[str]:
    """The strings of an iterable: a list, a generator, a NumPy array of strings.

    Args:
        what: named in messages, such as "the class list".
        texts: in order; a mapping or a set has none of its own.
        example: ends "expected an iterable of strings" in messages.

    Raises:
        UsageError: it is no such iterable, or an entry is no string.
    """
    expected = f"expected an iterable of strings{example}"
    if isinstance(texts, str | bytes | Mapping | set | frozenset) or not isinstance(texts, Iterable):
        raise UsageError(f"{what} is of type {type(texts).__name__}, {expected}")
    strings = list(texts)
    for number, text in enumerate(strings, start=1):
        if not isinstance(text, str):
            raise UsageError(f"entry {number} of {what} is {text!r:.50} of type {type(text).__name__}, {expected}")
    return [str(text) for text in strings]


def split_classes(text: str) -> list[str]:
    """Split "a; b, c; d" at the semicolons; one at the very end is allowed.

    Raises:
        UsageError: the text is empty.
    """
    if not text.strip():
        raise UsageError("the class list is empty; name at least two classes, such as 'dog; grass'")
    parts = text.split(";")
    return parts[:-1] if len(parts) > 1 and not parts[-1].strip() else parts


def _checked_word(where: str, text: str, *, strict: bool) -> str:
    refuse_odd_characters(where, text)
    if len(text) > PROMPT_CHARACTERS_LIMIT:
        message = f"{where} is {len(text)} characters long and is cut at {PROMPT_CHARACTERS_LIMIT}; shorten it"
        warn_or_refuse(message, strict=strict)
    word = " ".join(unicodedata.normalize("NFC", text[:PROMPT_CHARACTERS_LIMIT]).split())
    if not word:
        raise UsageError(f"{where} has an empty word; expected a name, check the separators ';' and ','")
    mixed = _mixed_scripts(word)
    if mixed:
        message = (
            f"{where} {word!r} mixes {' and '.join(mixed)} letters in one word, which may only look right; retype it"
        )
        warn_or_refuse(message, strict=strict)
    return word


def warn_or_refuse(message: str, *, strict: bool) -> None:
    """Log `message` as a warning, or raise it as a UsageError when `strict`."""
    if strict:
        raise UsageError(message)
    logger.warning(message)


def refuse_odd_characters(where: str, text: str) -> None:
    """Refuse what no prompt, JSON file or terminal can hold.

    Args:
        where: named in the message.
        text: may hold tabs.

    Raises:
        UsageError: the text holds a control character or half of a surrogate pair.
    """
    for character in text:
        # Cc: control characters such as NUL; Cs: half of a surrogate pair, which is no character at all.
        if unicodedata.category(character) in ("Cc", "Cs") and character != "\t":
            raise UsageError(f"{where} holds the character U+{ord(character):04X}, expected plain text; remove it")


def _mixed_scripts(text: str) -> list[str]:
    """The scripts of the first word in `text` that mixes Latin, Greek and Cyrillic, whose letters look alike."""
    for word in re.split(r"[\W\d_]+", text):
        scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
        alike = sorted(scripts & {"LATIN", "GREEK", "CYRILLIC"})
        if len(alike) > 1:
            return [script.capitalize() for script in alike]
    return []


def _refuse_duplicates(places: Sequence[str], groups: Sequence[tuple[str, ...]]) -> None:
    seen: dict[str, str] = {}
    for place, words in zip(places, groups, strict=True):
        for word in words:
            key = unicodedata.normalize("NFKC", word).casefold()
            if key in seen:
                raise UsageError(
                    f"{place} repeats {word!r} of {seen[key]}; expected each word once, remove one of them"
                )
            seen[key] = place
        if place == BACKGROUND_NAME:
            seen.setdefault(BACKGROUND_NAME, BACKGROUND_NAME)
