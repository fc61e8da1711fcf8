"""More names than labels of 8 bit can number: the words that a bundle knows, several in a row."""

from collections.abc import Iterable
from itertools import chain, islice, permutations


def many_names(words: Iterable[str], count: int) -> list[str]:
    """The words, then pairs of them, then three in a row, until there are `count` names."""
    known = list(words)
    rows = chain.from_iterable(permutations(known, length) for length in (1, 2, 3))
    names = [" ".join(row) for row in islice(rows, count)]
    assert len(set(names)) == count, f"{len(known)} words make only {len(names)} names"
    return names
