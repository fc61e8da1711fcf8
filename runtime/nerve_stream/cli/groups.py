"""Options in groups: a command takes a few dataclasses, and the command line shows all of their fields.

Typer has no parameter models; its `rich_help_panel` only arranges the help. See docs/decisions.md.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import wraps
from typing import Any, get_type_hints

from typer.models import OptionInfo


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command whose parameters are the fields of the dataclasses that `command` takes.

    A field's type is `Annotated[type, typer.Option(...)]`, or `typer.Argument`, and its default the option's. The help
    shows the options of a dataclass together, under the first line of its docstring.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Size:
    ...     height: int = 2
    ...     width: int = 3
    >>> @grouped
    ... def print_area(size: Size) -> None:
    ...     print(size.height * size.width)
    >>> print_area(height=5)
    15
    """
    groups = {name: group for name, group in get_type_hints(command).items() if name != "return"}

    @wraps(command)
    def flat(**values: Any) -> None:
        command(
            **{
                name: group(**{field.name: values[field.name] for field in fields(group) if field.name in values})
                for name, group in groups.items()
            }
        )

    parameters = [_parameter(group, field) for group in groups.values() for field in fields(group)]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature reads
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _parameter(group: type, field: Field[Any]) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    annotation = get_type_hints(group, include_extras=True)[field.name]
    for settings in [found for found in getattr(annotation, "__metadata__", ()) if isinstance(found, OptionInfo)]:
        settings.rich_help_panel = (group.__doc__ or "").partition("\n")[0].rstrip(".")
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
