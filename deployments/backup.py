"""All state in one archive, and back: databases, MLflow's artifacts, the sandbox's account.

SQLite files are copied through SQLite's own backup, so that a running system may be saved; PostgreSQL through
pg_dump. Restoring wants everything stopped and an empty HOME: it never writes over what is there, and looks at
everything before it writes anything. An archive holds whole accounts: only its owner may read it.
"""

import gzip
import io
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import zlib
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from deployments import running
from tasks.core.errors import InputError, TradingError
from tasks.settings import Settings

FILES = ("sandbox.json", "mlartifacts")  # beside the databases
SQLITE = {"quarterdeck": "quarterdeck.db", "prefect": "prefect/prefect.db", "mlflow": "mlflow.db"}
LAYOUT = "quarterdeck-backup-1"


def backup(settings: Settings, archive: Path) -> list[str]:
    """Write everything to `archive` (.tar.gz), which appears complete or not at all; returns what is in it."""
    if archive.exists():
        raise InputError(f"{archive} exists already: give another name, or move it away")
    if not archive.parent.is_dir():
        raise InputError(f"{archive.parent} is no directory: create it, or give another place")
    partial = archive.with_name(archive.name + ".partial")
    try:
        with tempfile.TemporaryDirectory(prefix=".quarterdeck-backup-", dir=archive.parent) as made:
            for name, url in _urls(settings).items():
                _save(name, url, Path(made))
            partial.touch(mode=0o600)
            names = _pack(partial, [*sorted(Path(made).iterdir()), *(settings.home / name for name in FILES)])
        partial.rename(archive)
    except OSError as e:
        raise InputError(f"{archive} cannot be written: {e.strerror or e}") from e
    finally:
        partial.unlink(missing_ok=True)
    return names


def _pack(archive: Path, paths: list[Path]) -> list[str]:
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(LAYOUT), io.BytesIO())
        for path in paths:
            if path.exists():
                tar.add(path, path.name)
        return [name for name in tar.getnames() if "/" not in name and name != LAYOUT]


def restore(settings: Settings, archive: Path) -> list[str]:
    """Bring back what `backup` wrote; raises InputError where it would write over something."""
    if running.claimed(settings.home):
        raise InputError(f"quarterdeck runs with HOME {settings.home}: `quarterdeck down` first")
    with tempfile.TemporaryDirectory(prefix=".quarterdeck-restore-", dir=settings.home) as made:
        found = _unpacked(archive, Path(made))
        urls = _urls(settings)
        for name, url in urls.items():
            _require_kind(name, url, found)
            _require_empty(name, url)
        for name in FILES:
            if (settings.home / name).exists():
                raise InputError(f"{settings.home / name} exists: restore into an empty QUARTERDECK_HOME")
        for name, url in urls.items():
            _load(name, url, Path(made))
        for name in FILES:
            if (Path(made) / name).exists():
                shutil.move(Path(made) / name, settings.home / name)
    return found


def _urls(settings: Settings) -> dict[str, str]:
    """Return where each database lives; our own servers' by their settings."""
    own = {"quarterdeck": settings.database_url, "prefect": settings.prefect_database_url}
    own["mlflow"] = settings.mlflow_database_url
    return {name: url or f"sqlite:///{settings.home / SQLITE[name]}" for name, url in own.items()}


def _save(name: str, url: str, to: Path) -> None:
    if not url.startswith("sqlite"):
        _pg("pg_dump", url, "--format=custom", f"--file={to / name}.dump")
    elif (file := _file(url)).exists():
        try:
            with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to / f"{name}.db")) as copy:
                source.backup(copy)
        except sqlite3.Error as e:
            raise TradingError(f"{file} could not be copied: {e}") from e


def _load(name: str, url: str, made: Path) -> None:
    dump, copy = made / f"{name}.dump", made / f"{name}.db"
    if copy.exists():
        _file(url).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(copy, _file(url))
    elif dump.exists():
        _pg("pg_restore", url, "--no-owner", "--exit-on-error", "--single-transaction", str(dump))


def _require_kind(name: str, url: str, found: list[str]) -> None:
    """Raise InputError if the archive has the other kind of database than the setting names."""
    if url.startswith("sqlite") and f"{name}.dump" in found:
        raise InputError(f"the archive's {name} is of PostgreSQL, {url} is SQLite: give a PostgreSQL URL")
    if not url.startswith("sqlite") and f"{name}.db" in found:
        raise InputError(f"the archive's {name} is of SQLite, the setting a PostgreSQL URL: restore into SQLite")


def _require_empty(name: str, url: str) -> None:
    if url.startswith("sqlite"):
        if _file(url).exists():
            raise InputError(f"{_file(url)} exists: restore into an empty QUARTERDECK_HOME")
        return
    from sqlalchemy import create_engine, inspect

    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        if inspect(engine).get_table_names():
            raise InputError(f"the database of {name} has tables: restore into an empty one")
    finally:
        engine.dispose()


def _file(url: str) -> Path:
    return Path(make_url(url).database or "")


def _pg(tool: str, url: str, *options: str) -> None:
    """Run one of PostgreSQL's own tools; the password goes through the environment, where no process list shows it."""
    target = make_url(url).set(drivername="postgresql")
    env = {"PGPASSWORD": target.password or "", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    plain = target._replace(password=None).render_as_string(hide_password=False)
    program = shutil.which(tool)
    if program is None:
        raise InputError(f"{tool} is not installed: it comes with PostgreSQL's client (Debian: postgresql-client)")
    done = subprocess.run([program, *options, f"--dbname={plain}"], env=env, capture_output=True, text=True)  # noqa: S603  (our own list)
    if done.returncode:
        raise TradingError(f"{tool} failed: {done.stderr.strip()[-300:]}")


def _unpacked(archive: Path, to: Path) -> list[str]:
    try:
        _require_whole(archive)
        with tarfile.open(archive, "r:gz") as tar:
            names = tar.getnames()
            if LAYOUT not in names or not all(_ours(name) for name in names):
                raise InputError(f"{archive} was not written by `quarterdeck backup`")
            tar.extractall(to, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as e:
        raise InputError(f"{archive} cannot be read: {e}") from e
    return [name for name in names if "/" not in name and name != LAYOUT]


def _require_whole(archive: Path) -> None:
    """Read to the checksum at the end: tarfile takes a damaged header for the end of the archive, and says nothing."""
    with gzip.open(archive) as whole:
        while whole.read(1 << 20):
            pass


def _ours(name: str) -> bool:
    """Say whether `backup` gives a member this name; one that leads elsewhere, it does not."""
    top, *inside = name.split("/")
    databases = {f"{database}.{kind}" for database in SQLITE for kind in ("db", "dump")}
    return top in {LAYOUT, *FILES, *databases} and ".." not in inside
