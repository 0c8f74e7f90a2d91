"""Ports for servers that must be told theirs: free, and not taken by others before the server has it.

The kernel gives ports above 32767 to whoever asks for any, also to connections that go out: a port that was found by
asking for any is often somebody else's a second later. These are below, drawn at random, and given once a process.
"""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

BELOW_EPHEMERAL = range(20_000, 32_000)
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody has."""
    for port in random.SystemRandom().sample(BELOW_EPHEMERAL, 1000):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise AssertionError(f"no free port of 1000 at {host}")


@contextmanager
def nobody() -> Iterator[str]:
    """Yield an address where nobody listens, and nobody can until the end."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{silent.getsockname()[1]}"
