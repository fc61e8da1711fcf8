"""Files that hold their own SHA-256: that of all their bytes with its 64 digits as zeros. Finds damage, not forgery."""

import hashlib
import re
from dataclasses import dataclass

NO_SHA256 = "0" * 64


@dataclass(frozen=True, slots=True)
class OwnSha256:
    """Where a kind of file holds its hash.

    Attributes:
        before: the bytes right before the 64 digits; a double quote follows them.
    """

    before: bytes

    def written(self, content: bytes) -> list[str]:
        """Every hash that stands in a file; a whole one has exactly one."""
        return [digits.decode() for digits in self._pattern().findall(content)]

    def of(self, content: bytes) -> str:
        """The hash that the file should hold."""
        blank = self._pattern().sub(lambda found: self._with(NO_SHA256), content)
        return hashlib.sha256(blank).hexdigest()

    def filled_in(self, content: bytes) -> bytes:
        """The file with its hash in the place of the digits that it has."""
        digits = self.of(content)
        return self._pattern().sub(lambda found: self._with(digits), content)

    def _pattern(self) -> re.Pattern[bytes]:
        return re.compile(re.escape(self.before) + rb'([0-9a-f]{64})"')

    def _with(self, digits: str) -> bytes:
        return self.before + digits.encode() + b'"'
