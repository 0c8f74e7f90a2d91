"""What client and daemon say to each other over the socket, a packet each; standard library only, and little of it.

Client: JSON `{"env", "cwd", "stamp"}` with its stdin, stdout and stderr, then a byte for each signal to pass on.
Daemon: `r` (refused: start cold) or `s` (started), then the exit code, or minus the signal that ended the run. A packet
holds some 200 KB: who has more environment than that starts cold.
"""

import os
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "QUARTERDECK_WARM_SOCKET"
STARTED, REFUSED = b"s", b"r"
ROOT = Path(__file__).resolve().parents[2]
OURS = ("flows", "tasks", "deployments")


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
    """Return what changes with the installed packages and with our own modules: a daemon of another is out of date."""
    lib = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    try:
        changed = lib.stat().st_mtime_ns
    except OSError:
        changed = 0
    return f"{os.path.realpath(sys.executable)}|{sys.prefix}|{changed}|{ROOT}|{_sources()}"


def _sources() -> int:
    """Return a checksum of when each of our modules was written; 2 ms."""
    folders, seen = [f"{ROOT}/{name}" for name in OURS], list[str]()
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    seen.append(f"{entry.path} {entry.stat().st_mtime_ns}")
                elif "." not in entry.name and entry.is_dir():
                    folders.append(entry.path)
    return zlib.crc32("\n".join(sorted(seen)).encode())


def peer_uid(other: socket.socket) -> int:
    """Return whose process is at the other end."""
    credentials = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
