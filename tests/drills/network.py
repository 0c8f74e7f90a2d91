"""Two machines for one kernel: network namespaces with addresses and host names of their own, on one bridge."""

import os
import shutil
import subprocess
from contextlib import suppress

from tests.drills.seen import Skipped

ENTER = 'hostname "$0" && exec "$@"'


class Network:
    """A bridge with this machine's end of it, and namespaces that can be cut off."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Make it; raises Skipped where that is not allowed, having removed what it made."""
        if os.geteuid() or not (shutil.which("ip") and shutil.which("unshare")):
            raise Skipped("network namespaces need root, `ip` (iproute2) and `unshare` (util-linux)")
        number = os.getpid() % 250 + 2
        self.bridge, self.host = f"qdbr{os.getpid()}", f"10.213.{number}.1"
        self.spaces = {name: f"qd{os.getpid()}{name}" for name in names}
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self.host}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for n, name in enumerate(names):
                self._join(name, f"10.213.{number}.{n + 2}/24")
        except RuntimeError as e:
            self.remove()
            raise Skipped(f"network namespaces cannot be made here: {e}") from e

    def _join(self, name: str, address: str) -> None:
        space, inner, outer = self.spaces[name], f"{self.spaces[name]}i", self.spaces[name]
        _ip("netns", "add", space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
        _ip("link", "set", outer, "master", self.bridge, "up")
        _ip("-n", space, "addr", "add", address, "dev", inner)
        for device in ("lo", inner):
            _ip("-n", space, "link", "set", device, "up")

    def command(self, name: str, *command: str) -> tuple[str, ...]:
        """Return what runs `command` on that machine, whose host name is its namespace's."""
        space = self.spaces[name]
        return ("ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", ENTER, space, *command)

    def cut(self, name: str) -> None:
        _ip("link", "set", self.spaces[name], "down")

    def mend(self, name: str) -> None:
        _ip("link", "set", self.spaces[name], "up")

    def remove(self) -> None:
        """Take away whatever there is of it."""
        for kind, name in (*(("netns", space) for space in self.spaces.values()), ("link", self.bridge)):
            with suppress(RuntimeError):
                _ip(kind, "delete", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
