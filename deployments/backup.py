"""All state in one archive, and back: databases, MLflow's artifacts, the sandbox's account.

SQLite files are copied through SQLite's own backup, so that a running system may be saved; PostgreSQL through
pg_dump. Restoring wants everything stopped and an empty HOME: it never writes over what is there.
"""

import io
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from deployments import state
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
    with tempfile.TemporaryDirectory(prefix="quarterdeck-backup-") as made:
        for name, url in _urls(settings).items():
            _save(name, url, Path(made))
        try:
            with tarfile.open(partial, "w:gz") as tar:
                tar.addfile(tarfile.TarInfo(LAYOUT), io.BytesIO())
                for path in (*sorted(Path(made).iterdir()), *(settings.home / name for name in FILES)):
                    if path.exists():
                        tar.add(path, path.name)
                names = [name for name in tar.getnames() if "/" not in name and name != LAYOUT]
            partial.rename(archive)
        finally:
            partial.unlink(missing_ok=True)
    return names


def restore(settings: Settings, archive: Path) -> list[str]:
    """Bring back what `backup` wrote; raises InputError where it would write over something."""
    if state.running(settings.home):
        raise InputError(f"quarterdeck runs with HOME {settings.home}: `quarterdeck down` first")
    with tempfile.TemporaryDirectory(prefix="quarterdeck-restore-") as made:
        found = _unpacked(archive, Path(made))
        urls = _urls(settings)
        for name, url in urls.items():
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
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to / f"{name}.db")) as copy:
            source.backup(copy)


def _load(name: str, url: str, made: Path) -> None:
    dump, copy = made / f"{name}.dump", made / f"{name}.db"
    if url.startswith("sqlite"):
        if dump.exists():
            raise InputError(f"the archive's {name} is of PostgreSQL, {url} is SQLite: give a PostgreSQL URL")
        if copy.exists():
            _file(url).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(copy, _file(url))
    elif copy.exists():
        raise InputError(f"the archive's {name} is of SQLite, the setting a PostgreSQL URL: restore into SQLite")
    elif dump.exists():
        _pg("pg_restore", url, "--no-owner", "--exit-on-error", "--single-transaction", str(dump))


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
        with tarfile.open(archive, "r:gz") as tar:
            names = tar.getnames()
            if LAYOUT not in names:
                raise InputError(f"{archive} was not written by `quarterdeck backup`")
            tar.extractall(to, filter="data")
    except (OSError, tarfile.TarError) as e:
        raise InputError(f"{archive} cannot be read: {e}") from e
    return [name for name in names if "/" not in name and name != LAYOUT]
