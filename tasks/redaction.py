"""What was read as a secret, and texts without it.

Known by value, whatever its place is called: secret fields of the settings, what is secret in URLs, and the
environment's credentials, by names that fit those of every provider litellm knows.
"""

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from tasks.core.pages import inert

CREDENTIAL = re.compile(
    r"KEY|SECRET|TOKEN|PASS|PWD|CRED|AUTH(?!OR_)|JWT|COOKIE|DSN|HEADERS|WEBHOOK|ALERT_URL|SIGNATURE|SALT"
)
FOLDERS = ("PWD", "OLDPWD")  # a shell's: where it is and was
PARAMETER = re.compile(r"[?&;][^=&;]*(?:key|token|secret|pass|pwd|auth|sig)[^=&;]*=([^&;#\s]+)", re.IGNORECASE)
USERINFO = re.compile(r"\w://([^/?#@\s]+)@")
ACCOUNT = re.compile(r"postgres(?:ql)?(?:\+\w+)?://[^:/?#@\s]+@")  # a name alone is who logs in, at a socket of ours
ORDINARY = re.compile(r".{0,5}|\d{1,9}|sandbox", re.DOTALL)  # would be found in any text
_remembered: set[str] = set()


def secrets_of(url: str) -> set[str]:
    """Return what is secret in URLs: the password, or a name without one, and parameters that are called so."""
    found = PARAMETER.findall(url)
    for userinfo in USERINFO.findall(ACCOUNT.sub("", url)):
        user, colon, password = userinfo.partition(":")
        found.append(password if colon else user)
    return {*found, *map(unquote, found)}


def remember(values: Iterable[str]) -> None:
    """Know these values as secrets from now on."""
    _remembered.update(value for value in values if not ORDINARY.fullmatch(value))


def redacted(text: str) -> str:
    """Return `text` with *** for every secret known."""
    for secret in sorted(_in_environment(tuple(os.environ.items())) | _remembered, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


@lru_cache(maxsize=1)
def _in_environment(variables: tuple[tuple[str, str], ...]) -> frozenset[str]:
    found = set[str]()
    for name, value in variables:
        found |= secrets_of(value)
        if name not in FOLDERS and CREDENTIAL.search(name.upper()):
            found |= {value, value.partition(":")[2]}  # also the password of a user:password
    return frozenset(value for value in found if not ORDINARY.fullmatch(value))


def guard_logs() -> None:
    """Let no log record of this process carry a secret, and its message be one line; a traceback's lines are set in."""
    made = logging.getLogRecordFactory()
    if getattr(made, "__module__", "") == __name__:
        return

    def clean(*args: Any, **options: Any) -> logging.LogRecord:
        record = made(*args, **options)
        with suppress(TypeError, ValueError):  # arguments that do not fit: logging says so itself
            record.msg, record.args = inert.line(redacted(record.getMessage())), ()
        if record.exc_info:
            lines = redacted(logging.Formatter().formatException(record.exc_info)).split("\n")
            record.exc_text = "\n".join(f"  {inert.line(each)}" for each in lines)
        return record

    logging.setLogRecordFactory(clean)
