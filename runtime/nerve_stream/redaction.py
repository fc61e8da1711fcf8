"""What of a text may be printed, logged or raised: no passwords or tokens of URLs, and nothing that cannot be encoded."""

import re

HIDDEN = "***"
SECRET_WORDS = ("token", "key", "pass", "pwd", "secret", "sig", "auth", "cred", "session", "streamid")
"""A query parameter whose name holds one of these is taken for a secret; `streamid` carries the password of SRT."""

# Greedy up to the last @ of the word: people write passwords with @, /, ? or # in them though no URL may hold these bare.
# It hides the host too where an @ stands in the path; better too much than a password.
_USER_INFORMATION = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)\S*@")
_PARAMETER = re.compile(r"(?P<start>[?&;#](?P<name>[^\s=&;#?'\"<>]+)=)[^\s&;#'\"<>]*")


def redacted(text: str) -> str:
    """The text with the secrets of every URL in it replaced by `***`; whatever else it says stays as it is.

    Hidden are user names and passwords (`rtsp://user:password@host`) and the values of query parameters whose names
    sound like secrets, such as `token`, `api_key`, `password`, `signature` and `auth`.

    >>> redacted("cannot open rtsp://me:secret@10.0.0.7/live?channel=2&token=abc refused")
    'cannot open rtsp://***@10.0.0.7/live?channel=2&token=*** refused'
    """
    return _PARAMETER.sub(_without_value, _USER_INFORMATION.sub(rf"\g<scheme>{HIDDEN}@", text))


def readable(text: str) -> str:
    r"""Text from the command line or a file name as UTF-8, whatever the locale took it for.

    Where the locale is not UTF-8, Python keeps each byte it cannot decode as half of a surrogate pair, which no JSON
    file and no terminal takes. Bytes that are no UTF-8 either become U+FFFD.

    >>> readable("m\udcc3\udcb6we.mp4")
    'möwe.mp4'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _without_value(parameter: re.Match[str]) -> str:
    secret = any(word in parameter["name"].lower() for word in SECRET_WORDS)
    return f"{parameter['start']}{HIDDEN}" if secret else parameter[0]
