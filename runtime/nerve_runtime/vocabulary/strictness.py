"""What to do about input that is usable but suspicious: warn, or refuse when the caller asked for strictness."""

import logging

from nerve_runtime.errors import UsageError

logger = logging.getLogger("nerve_runtime")


def warn_or_refuse(message: str, *, strict: bool) -> None:
    """Log `message` as a warning, or raise it as a UsageError when `strict`."""
    if strict:
        raise UsageError(message)
    logger.warning(message)
