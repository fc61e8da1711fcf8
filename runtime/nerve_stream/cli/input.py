"""What both commands share: errors as one line and an exit code, and their bundle, classes and templates."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import typer

from nerve_runtime import BundleError, NerveError, ResourceError, UsageError
from nerve_stream.cli.options import DEFAULT_BUNDLE
from nerve_stream.redaction import readable

PYTHON_ARGUMENT = re.compile(r"\b(backend|providers|trust_engines|allow_unchecked)=(?:\"(\w+)\"|True)")


@contextmanager
def exit_codes(*, verbose: bool) -> Iterator[None]:
    """Turn a NerveError into one line on stderr and its exit code; anything else is our bug and keeps its traceback.

    When the reader of stdout has closed it, as `head` does, the exit code is 141, without a message.
    """
    try:
        yield
    except NerveError as error:
        print_error(error, verbose=verbose)
        raise typer.Exit(error.exit_code) from error
    except BrokenPipeError as error:
        from nerve_stream.sinks.base import ReaderGoneError, discard_buffer

        discard_buffer(sys.stdout)
        raise typer.Exit(ReaderGoneError.exit_code) from error
    except OSError as error:  # a path that is too long, or that permissions hide, wherever it is first touched
        resource_error = ResourceError(f"{error}; check the path and its permissions")
        resource_error.__cause__ = error
        print_error(resource_error, verbose=verbose)
        raise typer.Exit(ResourceError.exit_code) from error


def print_error(error: NerveError, *, verbose: bool) -> None:
    """Print an error to stderr in one line; with `verbose` its traceback too."""
    if verbose:
        logging.getLogger("nerve_runtime").error("the error came from here", exc_info=error)
    typer.echo(f"error: {as_options(' '.join(str(error).split()))}", err=True)


def as_options(message: str) -> str:
    """A message that names arguments of the Python interface, naming the options of the command line instead.

    >>> as_options('use backend="ort", or trust_engines=True')
    'use --backend ort, or --trust-engines'
    """
    return PYTHON_ARGUMENT.sub(
        lambda match: f"--{match[1].replace('_', '-')}{f' {match[2]}' if match[2] else ''}", message
    )


def bundle_or_default(bundle: Path | None, *, strict: bool) -> Path:
    """The folder of the bundle that was named, or the tiny one: of the current folder, else that of the installation.

    Raises:
        NerveError: none was named and there is no tiny one, or one of the hub cannot be fetched (see `bundle_folder`).
    """
    if bundle is not None:
        from nerve_runtime.bundle import bundle_folder

        return bundle_folder(bundle, strict=strict)
    packaged = Path(str(files("nerve_stream"))) / "tiny"
    for default in (DEFAULT_BUNDLE, packaged):
        if default.is_dir():
            return default
    raise BundleError(
        f"there is no bundle at {DEFAULT_BUNDLE} and none in this installation; build it with: nerve-build, "
        "or name another with --bundle"
    )


def named_classes(text: str | None, file: Path | None, vocabulary: Path | None) -> str | list[str] | Path:
    """The classes from the one option of three that names them.

    Raises:
        UsageError: none or several of the options are given, or the file is unusable.
    """
    options = [
        name
        for name, value in (("--classes", text), ("--classes-file", file), ("--vocabulary", vocabulary))
        if value is not None
    ]
    if len(options) != 1:
        raise UsageError(
            f"classes are named by {' and '.join(options) or 'no option'}, expected exactly one of --classes, "
            "--classes-file and --vocabulary"
        )
    if file is not None:
        from nerve_stream.cli.text_files import read_class_file

        return read_class_file(file)
    return vocabulary if vocabulary is not None else readable(text or "")


def template_lines(templates: str | None) -> str | list[str] | None:
    """The name of a template set, or the templates of a file, one a line.

    Raises:
        UsageError: the file is not UTF-8 text.
    """
    if templates is None or not Path(templates).is_file():
        return templates and readable(templates)
    from nerve_stream.cli.text_files import read_text_lines

    return [text for _, text in read_text_lines(Path(templates), "template file")]
