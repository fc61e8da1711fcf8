"""An extension of griffe for `make docs`: examples in docstrings, `>>>` and `...`, become blocks of code."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?m)^(?:(?:>>>|\.\.\.)(?: .*)?\n?)+")


def with_code_blocks(docstring: str) -> str:
    """A docstring whose examples are fenced, without prompts and without what only doctest reads."""
    return EXAMPLE.sub(lambda match: f"```python\n{_code(match[0])}\n```\n", docstring)


def _code(example: str) -> str:
    lines = [re.sub(r"^(?:>>>|\.\.\.) ?", "", line) for line in example.splitlines()]
    return "\n".join(re.sub(r"\s*# doctest: .*$", "", line) for line in lines)


class Doctests(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for each object after it was read."""
        if obj.docstring is not None:
            obj.docstring.value = with_code_blocks(obj.docstring.value)
