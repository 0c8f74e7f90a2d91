"""The certificates that https is checked by. Reading the list takes 20 ms, and libraries read it for every client."""

import os
import ssl
from functools import cache
from pathlib import Path
from ssl import SSLContext

import certifi
import httpx

from tasks.adapters.files.private import write_new
from tasks.core.errors import InputError

END = "-----END CERTIFICATE-----\n"


@cache
def trusted() -> SSLContext:
    """Return what our own clients check a server by, read once, and once for all processes that are forked after it.

    certifi's list, unless SSL_CERT_FILE or SSL_CERT_DIR names another. Raises InputError for one that cannot be read.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as e:  # a file without certificates, too
        file = os.environ.get("SSL_CERT_FILE")
        raise InputError(f"SSL_CERT_FILE={file}: {e.strerror or e}; name a file of certificates, or unset it") from None


def prefects() -> SSLContext:
    """Return what Prefect's server is checked by, as its own clients do it: PREFECT_API_SSL_CERT_FILE, if it is set."""
    file = os.environ.get("PREFECT_API_SSL_CERT_FILE")
    return ssl.create_default_context(cafile=file) if file else trusted()


def first_alone(home: Path) -> Path:
    """Return HOME's file of one certificate: for a library that is only ever asked for http, and reads a list."""
    file, one = home / "plain-http.pem", certifi.contents().partition(END)[0] + END
    if not file.is_file() or file.read_text() != one:  # half of it, of a disk that was full, would fail every run
        new = file.with_suffix(f".{os.getpid()}")
        new.unlink(missing_ok=True)
        write_new(new, one)
        new.replace(file)
    return file
