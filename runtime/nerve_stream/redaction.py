"""Takes secrets out of text that may be printed, logged or raised: passwords and tokens inside URLs."""

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


def _without_value(found: re.Match[str]) -> str:
    secret = any(word in found["name"].lower() for word in SECRET_WORDS)
    return f"{found['start']}{HIDDEN}" if secret else found[0]
