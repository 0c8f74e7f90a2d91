"""All state in one archive, and back: databases, MLflow's artifacts, the sandbox's account.

SQLite files are copied through SQLite's own backup, so that a running system may be saved; PostgreSQL through
pg_dump. Restoring wants everything stopped and an empty HOME: it never writes over what is there, and looks at
everything before it writes anything. An archive holds whole accounts: only its owner may read it.
"""

import gzip
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import inspect, make_url

from deployments import up_state
from tasks.adapters.postgres import cluster
from tasks.adapters.store import Database
from tasks.core.errors import InputError, TradingError
from tasks.settings import CLUSTER, DATABASES, Settings, in_cluster_url

FILES = ("sandbox.json", "mlartifacts")  # beside the databases
LAYOUT = "quarterdeck-backup-1"
MEMBERS = {LAYOUT, *FILES, *(f"{database}.{kind}" for database in DATABASES for kind in ("db", "dump"))}


def backup(settings: Settings, archive: Path) -> list[str]:
    """Write everything to `archive` (.tar.gz), which appears complete or not at all; returns what is in it."""
    if os.path.lexists(archive):
        raise InputError(f"{archive} exists already: give another name, or move it away")
    if not archive.parent.is_dir():
        raise InputError(f"{archive.parent} is no directory: create it, or give another place")
    try:  # everything is made in a new folder that is ours alone, where nobody can have planted a link
        with tempfile.TemporaryDirectory(prefix=".quarterdeck-backup-", dir=archive.parent) as made:
            for name, url in settings.databases.items():
                _save(name, url, Path(made))
            paths = [*sorted(Path(made).iterdir()), *filter(Path.exists, (settings.home / name for name in FILES))]
            if not paths:
                raise InputError(f"{settings.home} has nothing to save: correct QUARTERDECK_HOME")
            partial = Path(made, "partial")
            partial.touch(mode=0o600)
            with tarfile.open(partial, "w:gz") as tar:
                tar.addfile(tarfile.TarInfo(LAYOUT))
                for path in paths:
                    tar.add(path, path.name)
            partial.rename(archive)
    except OSError as e:
        raise InputError(f"{archive} cannot be written: {e.strerror or e}") from e
    return [path.name for path in paths]


def restore(settings: Settings, archive: Path) -> list[str]:
    """Bring back what `backup` wrote; raises InputError where it would write over something."""
    if up_state.claimed(settings.home):
        raise InputError(f"quarterdeck runs with HOME {settings.home}: `quarterdeck down` first")
    with tempfile.TemporaryDirectory(prefix=".quarterdeck-restore-", dir=settings.home) as made:
        _unpack(archive, Path(made))
        members = {path.name: path for path in Path(made).iterdir() if path.name != LAYOUT}
        begun = _of_a_new_cluster(settings, members)
        urls = settings.databases | {name: in_cluster_url(Path(made), name) for name in begun}
        files = {f"{name}.db": _file(url) for name, url in urls.items() if url.startswith("sqlite")}
        files |= {name: settings.home / name for name in FILES}
        dumps = {f"{name}.dump": url for name, url in urls.items() if f"{name}.db" not in files}
        for name in members.keys() - {*files, *dumps}:
            theirs, ours = ("PostgreSQL", "SQLite") if name.endswith(".dump") else ("SQLite", "PostgreSQL")
            raise InputError(f"the archive's {name} is of {theirs}, the setting names {ours}: give a URL of {theirs}")
        for file in filter(Path.exists, files.values()):
            raise InputError(f"{file} exists: restore into an empty QUARTERDECK_HOME")
        if begun and (why := cluster.made(Path(made), begun)):
            raise InputError(f"the archive is of PostgreSQL, and none can be made here: {why}")
        _fill(dumps, members)
        if begun:
            cluster.leave(Path(made, CLUSTER))
            Path(made, CLUSTER).rename(settings.home / CLUSTER)
        for name, file in files.items():
            if name in members:
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(members[name], file)
    return [*members]


def _of_a_new_cluster(settings: Settings, members: Iterable[str]) -> list[str]:
    """Return which databases go into a PostgreSQL that HOME gets with them: all there is of it, or nothing."""
    if (settings.home / CLUSTER).exists():
        return []
    return [name for name, url in settings.database_urls.items() if not url and f"{name}.dump" in members]


def _fill(dumps: Mapping[str, str], members: Mapping[str, Path]) -> None:
    """Restore each dump into the database of its URL, which must be empty."""
    for name, url in dumps.items():
        with closing(Database(url)) as database, database.reading() as connection:
            if inspect(connection).get_table_names():
                of = name.removesuffix(".dump")
                raise InputError(f"the database of {of} has tables: restore into an empty one")
    for name, url in dumps.items():
        if name in members:
            _pg("pg_restore", url, "--no-owner", "--exit-on-error", "--single-transaction", str(members[name]))


def _save(name: str, url: str, to: Path) -> None:
    if not url.startswith("sqlite"):
        _pg("pg_dump", url, "--format=custom", f"--file={to / name}.dump")
    elif (file := _file(url)).exists():
        try:
            with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to / f"{name}.db")) as copy:
                source.backup(copy)
        except sqlite3.Error as e:
            raise TradingError(f"{file} could not be copied: {e}") from e


def _file(url: str) -> Path:
    return Path(make_url(url).database or "")


def _pg(tool: str, url: str, *options: str) -> None:
    """Run one of PostgreSQL's own tools; all of the URL goes through a file of ours, which no process list shows."""
    program = cluster.tool(make_url(url), tool) or shutil.which(tool)
    if program is None:
        raise InputError(f"{tool} is not installed: it comes with PostgreSQL's client (Debian: postgresql-client)")
    target = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with tempfile.NamedTemporaryFile("w", prefix="quarterdeck-", suffix=".conf") as service:
        service.write("[quarterdeck]\n")
        service.writelines(f"{name}={value}\n" for name, value in conninfo_to_dict(target).items())
        service.flush()
        env = {"PGSERVICEFILE": service.name, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        command = [program, *options, "--dbname=service=quarterdeck"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)  # noqa: S603  (our own list)
    if done.returncode:
        raise TradingError(f"{tool} failed: {done.stderr.strip()[-300:]}")


def _plain(tar: tarfile.TarFile, to: Path) -> Iterator[tarfile.TarInfo]:
    """Return what is in an archive; raises TarError at what is no file or folder, or leads elsewhere."""
    for member in tar:
        if not (member.isfile() or member.isdir()) or not (to / member.name).resolve().is_relative_to(to.resolve()):
            raise tarfile.TarError(f"{member.name} leads elsewhere")
        yield member


def _unpack(archive: Path, to: Path) -> None:
    try:
        with gzip.open(
            archive
        ) as whole:  # to its checksum: tarfile takes a damaged header for the end, and says nothing
            while whole.read(1 << 20):
                pass
        with tarfile.open(archive, "r:gz") as tar:
            names = tar.getnames()
            if LAYOUT not in names or any(name.split("/")[0] not in MEMBERS for name in names):
                raise InputError(f"{archive} was not written by `quarterdeck backup`")
            if hasattr(tarfile, "data_filter"):
                tar.extractall(to, filter="data")  # which refuses names that lead elsewhere
            else:  # Python before 3.11.4
                tar.extractall(to, list(_plain(tar, to)))  # noqa: S202  (looked at)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as e:
        raise InputError(f"{archive} cannot be read: {e}") from e
