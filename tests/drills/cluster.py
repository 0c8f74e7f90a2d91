"""A PostgreSQL of our own from the system's packages: it can be killed as a whole and started again."""

import os
import secrets
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from tests.drills.seen import Skipped

NEWEST = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
USER = "quarterdeck"


class Cluster:
    """One server with the databases of ours, Prefect and MLflow, reached by password on one address."""

    def __init__(self, folder: Path, port: int, host: str = "127.0.0.1") -> None:
        """Set it up in `folder` and start it; raises Skipped where there is no PostgreSQL server."""
        if NEWEST is None:
            raise Skipped("no PostgreSQL server in /usr/lib/postgresql: Prefect's store needs one with pg_trgm")
        self.host, self.port, self.password = host, port, secrets.token_hex(12)
        self._folder = folder
        self._user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        folder.mkdir()
        word = folder / "password"
        word.write_text(self.password)
        if self._user:
            folder.parent.chmod(0o711)
            for path in (folder, word):
                shutil.chown(path, self._user)
        self._tool(
            "initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", "--pwfile", word, "-E", "UTF8", "-N"
        )  # fmt: skip
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        self.start()
        login = ("-h", host, "-p", port, "-U", USER, "-v", "ON_ERROR_STOP=1")
        for name in ("quarterdeck", "prefect", "mlflow"):  # of one owner: what is drilled is not their logins
            self._tool("psql", *login, "-d", "postgres", "-c", f"CREATE DATABASE {name}")
        self._tool("psql", *login, "-d", "prefect", "-c", "CREATE EXTENSION pg_trgm")

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{self.host}:{self.port}/{database}"

    def environment(self) -> dict[str, str]:
        names = {"": "quarterdeck", "PREFECT_": "prefect", "MLFLOW_": "mlflow"}
        return {f"QUARTERDECK_{name}DATABASE_URL": self.url(database) for name, database in names.items()}

    def start(self) -> None:
        """Start it, and come back when it takes connections."""
        where = f"-c listen_addresses={self.host} -c port={self.port} -c unix_socket_directories={self._folder}"
        self._tool(
            "pg_ctl", "-D", self._data, "-w", "-t", "120", "-l", self._folder / "server.log", "-o", where, "start"
        )

    def kill(self) -> int:
        """SIGKILL the postmaster and all of its children; returns how many processes that were."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        return len(family)

    def stop(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self._tool("pg_ctl", "-D", self._data, "-m", "immediate", "stop")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _tool(self, name: str, *arguments: object) -> None:
        assert NEWEST is not None
        command = [str(NEWEST.parent / name), *map(str, arguments)]
        env = {"PGPASSWORD": self.password, "PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        with (self._folder / "tools.log").open("ab") as log:
            done = subprocess.run(command, user=self._user, cwd="/", env=env, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {(self._folder / 'tools.log').read_text()[-2000:]}")
