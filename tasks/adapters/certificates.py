"""The certificates that https is checked by. Reading the list takes 20 ms, and libraries read it for every client."""

from functools import cache
from pathlib import Path
from ssl import SSLContext

import certifi
import httpx

from tasks.adapters.files.private import kept_once

END = "-----END CERTIFICATE-----\n"


@cache
def trusted() -> SSLContext:
    """Return what our own clients check a server by, read once, and once for all processes that are forked after it.

    certifi's list, unless SSL_CERT_FILE or SSL_CERT_DIR names another.
    """
    return httpx.create_ssl_context()


def first_alone(home: Path) -> Path:
    """Return HOME's file of one certificate: for a library that is only ever asked for http, and reads a list."""
    file = home / "plain-http.pem"
    kept_once(file, lambda: certifi.contents().partition(END)[0] + END)
    return file
