"""Options in groups: a command takes a few dataclasses, and the command line shows all of their fields."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command whose parameters are the fields of the dataclasses that `command` takes.

    A field's type is `Annotated[type, typer.Option(...)]`, or `typer.Argument`, and its default the option's.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Size:
    ...     height: int = 2
    ...     width: int = 3
    >>> @grouped
    ... def say(size: Size) -> None:
    ...     print(size.height * size.width)
    >>> say(height=5)
    15
    """
    groups = {name: kind for name, kind in get_type_hints(command).items() if name != "return"}
    parameters: list[inspect.Parameter] = []
    for kind in groups.values():
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
                )
            )

    @wraps(command)
    def flat(**given: Any) -> None:
        command(
            **{
                name: kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
                for name, kind in groups.items()
            }
        )

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature reads
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat
