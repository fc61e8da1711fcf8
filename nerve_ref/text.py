"""Class names to text embeddings: class lists, synonyms, background words, templates, the text bank (method, section 3)."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

BACKGROUND = "background"
MAX_CLASSES = 254
"""Labels are uint8 and 255 means "ignore"; one more value is kept free for the device."""
TEXT_BATCH = 256


@dataclass(frozen=True, slots=True)
class ClassList:
    """What to look for.

    Attributes:
        names: display name of each class; label i is names[i], or i + 1 where there are background words.
        synonyms: all names of each class, the display name first.
        background: words for everything else; they collapse into class 0 with max. Empty: no background class.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    background: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextBank:
    """Embeddings of all names and which of them belong to which class.

    Attributes:
        embeddings: one unit vector per name (r rows).
        class_rows: int64, the rows of each class, padded by repeating one of them.
        class_mask: which class slots are in use; G of the others is exactly 0.
        class_names: display names of the slots in use, in label order, "background" first where there is one.
        has_background: whether class 0 collects background words.
    """

    embeddings: Float[Tensor, "r d"]
    class_rows: Int[Tensor, "c k"]
    class_mask: Bool[Tensor, " c"]
    class_names: tuple[str, ...]
    has_background: bool


def parse_classes(classes: str | Sequence[str], background: str | Sequence[str] = ()) -> ClassList:
    """Read a class list: classes on lines or separated by ";", names of one class separated by ",".

    >>> parse_classes("ladybug, beetle; grass").synonyms
    (('ladybug', 'beetle'), ('grass',))

    Args:
        classes: one string, or one string per class.
        background: words for everything else, separated by ",", ";" or lines; none by default.

    Raises:
        ValueError: for an empty list, an empty name, a name given twice or more than 254 classes, saying which.
    """
    synonyms = tuple(_names(line, f"class {number}") for number, line in enumerate(_lines(classes), 1))
    words = tuple(name for line in _lines(background) for name in _names(line, "the background list"))
    if not synonyms:
        raise ValueError("the class list is empty; give at least one name, such as 'ladybug; grass'")
    if len(synonyms) + bool(words) > MAX_CLASSES:
        raise ValueError(f"{len(synonyms)} classes given, at most {MAX_CLASSES} fit (the background counts as one)")
    _refuse_duplicates([name for names in synonyms for name in names] + list(words))
    return ClassList(tuple(names[0] for names in synonyms), synonyms, words)


def _lines(text: str | Sequence[str]) -> list[str]:
    parts = text.strip().strip(";").splitlines() if isinstance(text, str) else list(text)
    return [piece for part in parts for piece in (part.strip().strip(";") or part).split(";")]


def _names(line: str, where: str) -> tuple[str, ...]:
    names = tuple(" ".join(unicodedata.normalize("NFC", name).split()) for name in line.split(","))
    if not all(names):
        raise ValueError(f"{where} has an empty name: {line!r}; write the names as 'name, synonym'")
    return names


def _refuse_duplicates(names: Sequence[str]) -> None:
    folded = [name.casefold() for name in names]
    twice = sorted({name for name in folded if folded.count(name) > 1})
    if twice:
        raise ValueError(f"named more than once: {', '.join(twice)}; a name may stand for one class only")


def text_embeddings(
    model: CLIPModel, tokenizer: Tokenizer, names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "r d"]:
    """One unit vector per name: the normalised mean over templates of normalised embeddings.

    Args:
        model: CLIP; its text tower and text projection are used.
        tokenizer: as made ready by `weights.prepared_tokenizer`: truncates and pads to the tower's length.
        names: what to name.
        templates: sentences with one "{}" each.

    Returns:
        float32, no gradient.
    """
    sentences = [template.format(name) for name in names for template in templates]
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(sentences)])
    with torch.no_grad():
        pooled = torch.cat([model.text_model(input_ids=batch).pooler_output for batch in ids.split(TEXT_BATCH)])
        each = functional.normalize(model.text_projection(pooled), dim=-1)
        return functional.normalize(each.unflatten(0, (len(names), len(templates))).mean(1), dim=-1)


def text_bank(
    model: CLIPModel,
    tokenizer: Tokenizer,
    classes: ClassList,
    templates: Sequence[str],
    slots: int | None = None,
) -> TextBank:
    """Embed a class list; with `slots`, pad it to that many class slots, the added ones masked off.

    Raises:
        ValueError: if there are fewer slots than classes.
    """
    groups = ([classes.background] if classes.background else []) + list(classes.synonyms)
    names = [name for group in groups for name in group]
    class_rows = _class_rows([len(group) for group in groups])
    count = len(groups)
    slots = count if slots is None else slots
    if slots < count:
        raise ValueError(f"{count} classes do not fit into {slots} slots; ask for at least {count}")
    padding = class_rows[:1].expand(slots - count, -1)
    display = ([BACKGROUND] if classes.background else []) + list(classes.names)
    return TextBank(
        embeddings=text_embeddings(model, tokenizer, names, templates),
        class_rows=torch.cat([class_rows, padding]),
        class_mask=torch.arange(slots) < count,
        class_names=tuple(display),
        has_background=bool(classes.background),
    )


def _class_rows(counts: Sequence[int]) -> Int[Tensor, "c k"]:
    """Consecutive rows for each class, padded by repeating the class's last row."""
    longest, start, rows = max(counts), 0, []
    for count in counts:
        rows.append([start + min(position, count - 1) for position in range(longest)])
        start += count
    return torch.tensor(rows)
