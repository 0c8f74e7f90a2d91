"""What client and daemon say to each other over the socket, a packet each; standard library only, and little of it.

Client: JSON `{"env", "cwd", "stamp"}` with its stdin, stdout and stderr, then a byte for each signal to pass on.
Daemon: `r` (refused: start cold) or `s` (started), then the exit code, or minus the signal that ended the run. A packet
holds some 200 KB: who has more environment than that starts cold.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "QUARTERDECK_WARM_SOCKET"
STARTED, REFUSED = b"s", b"r"


def endpoint() -> socket.socket:
    """Return a socket that keeps packets apart."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextmanager
def reachable(path: str) -> Iterator[str]:
    """Yield a short name of a socket's path, however long that is: a socket's address has room for 107 bytes."""
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{Path(path).name}"
    finally:
        os.close(folder)


def stamp() -> str:
    """Return what changes when packages are installed or removed: a daemon of another stamp is out of date."""
    lib = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    try:
        changed = lib.stat().st_mtime_ns
    except OSError:
        changed = 0
    return f"{os.path.realpath(sys.executable)}|{sys.prefix}|{changed}"


def peer_uid(other: socket.socket) -> int:
    """Return whose process is at the other end."""
    credentials = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
