"""Everything that can go wrong on purpose, and the exit code a command ends with."""

# None of the libraries has an error type for memory that ran out; they write one of these.
MEMORY_PHRASES = (
    "allocate memory", "bad allocation", "bad_alloc", "could not be allocated", "FAILED_ALLOCATION", "not enough memory",
    "out of memory", "OutOfMemory",
)  # fmt: skip


def is_out_of_memory(reason: BaseException | str) -> bool:
    """Whether a library's error or message says that host or device memory ran out."""
    return isinstance(reason, MemoryError) or any(phrase in str(reason) for phrase in MEMORY_PHRASES)


class NerveError(Exception):
    """Base of all errors raised on purpose: says what is wrong, what was got, what was expected, what to do."""

    exit_code = 1


class UsageError(NerveError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class BundleError(NerveError):
    """A bundle, or a file in it, is not what its manifest says."""

    exit_code = 3


class CompatibilityError(NerveError):
    """This machine or these libraries cannot run what was asked for."""

    exit_code = 4


class SourceError(NerveError):
    """A frame source cannot be opened or read."""

    exit_code = 5


class ResourceError(NerveError):
    """Memory, disk space or permissions are missing."""

    exit_code = 6


class NumericError(NerveError):
    """Numbers came out that cannot be right, such as NaN scores."""

    exit_code = 7


class HungError(NerveError):
    """Something did not answer in time."""

    exit_code = 8
