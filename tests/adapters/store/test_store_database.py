"""URLs, errors, migration and column types of the store, on both databases."""

import json
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from free_ports import nobody
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from releases.release_0009 import of_release
from sqlalchemy import Connection, insert, inspect, select, text
from store_samples import AT, a_cycle, a_fill, an_outcome, minutes

from tasks.adapters.store import database
from tasks.adapters.store.database import parse_url
from tasks.adapters.store.store import Store
from tasks.adapters.store.tables import Base, EquityRow
from tasks.adapters.store.types import storable
from tasks.core.errors import InputError, StoreError
from tasks.core.types.record import EquityPoint
from tests.forked import raced

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "postgresql://me:secret@host:port/db",
        "mysql://me:secret@host/db",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_url_that_is_none_of_ours_is_the_users_error_and_shows_no_password(url):
    with pytest.raises(InputError) as caught:
        Store(url)
    assert "secret" not in str(caught.value)
    assert "use sqlite" in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_postgresql_url_goes_through_psycopg_3(scheme):
    assert parse_url(f"{scheme}://me:secret@host/db").drivername == "postgresql+psycopg"


def test_server_that_is_not_there_is_one_line_naming_host_and_remedy_without_password():
    with nobody() as address, pytest.raises(StoreError) as caught:
        Store(f"postgresql://me:s3cr3t@{address}/quarterdeck")
    message = str(caught.value)
    assert f"quarterdeck on {address}" in message
    assert "QUARTERDECK_DATABASE_URL" in message
    assert "s3cr3t" not in message
    assert "\n" not in message


@pytest.mark.slow
def test_server_that_accepts_and_stays_silent_is_given_up_within_five_seconds():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreError):
            Store(f"postgresql://me:s3cr3t@127.0.0.1:{silent.getsockname()[1]}/quarterdeck")


def test_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("dear diary " * 1000)
    with pytest.raises(StoreError, match=r"notes\.db.*not a database"):
        Store(f"sqlite:///{path}")
    assert path.read_text().startswith("dear diary")


def test_folder_that_cannot_be_made_is_the_users_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make"):
        Store(f"sqlite:///{tmp_path}/file/deeper/store.db")


def test_missing_schema_says_how_to_make_it(empty_url, open_store):
    with pytest.raises(StoreError, match="migrate"):
        open_store(empty_url).cycles.get("c1")


def test_broken_reference_says_what_to_write_first(store):
    with pytest.raises(StoreError, match="the position before its outcome"):
        store.outcomes.save(an_outcome())


def test_naive_time_and_float_money_are_refused(store):
    with pytest.raises(StoreError, match="no timezone"):
        store.cycles.begin(a_cycle(), datetime(2026, 11, 20, 12))  # noqa: DTZ001  (naive on purpose)
    row = {"strategy": "default", "at": AT, "equity": 1.1, "peak": Decimal(1)}
    with pytest.raises(StoreError, match="not money"), store.database.writing() as connection:
        connection.execute(insert(EquityRow).values(row))
    assert store.counts()["cycles"] == store.counts()["equity"] == 0


def test_migrating_again_changes_nothing(store):
    store.cycles.begin(a_cycle(), AT)
    store.migrate()
    assert store.counts()["cycles"] == 1


@pytest.mark.parametrize("was", ["new", *(f"{n:04}" for n in range(9, 20))])
def test_tables_of_new_and_of_old_databases_are_the_tables_of_the_models(empty_url, open_store, was):
    store = open_store(empty_url)
    if was != "new":
        with store.database.writing() as connection:
            of_release(connection, was)
    store.migrate()
    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": store.database.is_postgres})
        assert compare_metadata(context, Base.metadata) == []


def test_threads_that_migrate_at_once_all_succeed(empty_url, open_store):
    stores = [open_store(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.migrate(), stores))
    assert stores[0].counts()["cycles"] == 0


@pytest.mark.slow
def test_processes_that_open_and_migrate_at_once_all_succeed(empty_url):
    raced("from tasks.adapters.store.store import Store", f"s = Store({empty_url!r}); s.migrate(); s.counts()", count=4)


@pytest.mark.parametrize("version", ["0001", "0008", ""])
def test_database_of_before_the_first_migration_is_refused_with_what_to_do(store, version):
    with store.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    with pytest.raises(InputError, match=rf"has schema {version}, .* an earlier release on it first"):
        store.migrate()


def test_the_database_of_release_0009_that_tests_begin_with_is_as_that_release_made_it(empty_url, open_store):
    """Its schema was read from both databases then."""
    made = open_store(empty_url).database
    kind = "postgres" if made.is_postgres else "sqlite"
    with made.writing() as connection:
        of_release(connection, "0009")
        assert schema_of(connection) == json.loads((FIXTURES / f"schema-0009-{kind}.json").read_text())


def schema_of(connection: Connection) -> dict[str, object]:
    """Return tables, columns, keys and indexes as the database tells them."""
    seen = inspect(connection)
    shown = {"name", "type", "nullable", "default"}
    return {
        table: {
            "columns": [{k: _shown(v) for k, v in each.items() if k in shown} for each in seen.get_columns(table)],
            "key": seen.get_pk_constraint(table),
            "references": sorted(f"{each['name']} {each['constrained_columns']} {each['referred_table']}"
                                 for each in seen.get_foreign_keys(table)),
            "unique": sorted(f"{each['name']} {each['column_names']}" for each in seen.get_unique_constraints(table)),
            "indexes": sorted(f"{each['name']} {each['column_names']} {_condition(each)}"
                              for each in seen.get_indexes(table)),
        }
        for table in seen.get_table_names() if table != "alembic_version"
    }  # fmt: skip


def _shown(value: object) -> object:
    return value if value is None or isinstance(value, bool | str) else str(value)


def _condition(index: Any) -> str:
    options = index.get("dialect_options", {})
    return next((str(value) for name, value in options.items() if name.endswith("_where")), "")


def test_database_of_a_newer_version_is_refused(store):
    with store.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="newer version"):
        store.migrate()


def test_a_view_of_ones_own_on_what_a_migration_drops_is_named_with_what_to_do(empty_url, open_store):
    store = open_store(empty_url)
    with store.database.writing() as connection:
        of_release(connection, "0009")
        connection.execute(text("CREATE VIEW mine AS SELECT cycle_id, model FROM decisions"))
    with pytest.raises(StoreError, match=r"mine.*; drop what is not ours"):
        store.migrate()
    with store.database.writing() as connection:
        connection.execute(text("DROP VIEW mine"))
    store.migrate()


def test_an_open_of_what_is_up_to_date_waits_for_no_writer(store, store_url, open_store):
    store.cycles.begin(a_cycle(), AT)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE halts SET reason = 'held'"))
        if store.database.is_postgres:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": database.MIGRATION_LOCK})
        other = open_store(store_url)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.migrate).result(timeout=5)
        assert other.cycles.get("c1") is not None


def test_who_waits_in_vain_for_the_lock_is_told_that_another_holds_it(store, monkeypatch):
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0)
    monkeypatch.setitem(database.POSTGRES_OPTIONS, "options", "-c lock_timeout=10ms")
    other = Store(store.database._url.render_as_string(hide_password=False))
    lock = "LOCK TABLE halts IN ACCESS EXCLUSIVE MODE" if other.database.is_postgres else "SELECT 1"
    with store.database.writing() as connection:
        connection.execute(text(lock))
        with pytest.raises(StoreError, match="another process has held its write lock"):
            other.halts.add("a test", "me", AT)
    other.close()


def test_migration_that_breaks_half_way_leaves_no_table(empty_url, open_store):
    store = open_store(empty_url)
    with store.database.writing() as connection:
        connection.execute(text("CREATE TABLE verdicts (mine TEXT)"))  # the last one the migration makes
    with pytest.raises(StoreError, match="already exists"):
        store.migrate()
    with pytest.raises(StoreError, match="schema is missing"):
        store.cycles.get("c1")


def test_a_schema_of_an_earlier_version_says_how_to_bring_it_up_to_date(store):
    with store.database.writing() as connection:
        connection.execute(text("ALTER TABLE halts DROP COLUMN flatten"))
    with pytest.raises(StoreError, match="of an earlier version: `quarterdeck up`"):
        store.halts.active()


def test_url_with_percent_and_spaces_in_the_path_works(tmp_path, open_store):
    path = tmp_path / "a 100% new folder" / "store.db"
    store = open_store(f"sqlite:///{path}")
    store.migrate()
    assert path.exists()
    assert store.counts()["cycles"] == 0


def test_sqlite_is_opened_with_wal_foreign_keys_and_full_durability(tmp_path, open_store):
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with store.database.reading() as connection:
        read = {name: connection.scalar(text(f"PRAGMA {name}")) for name in
                ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")}  # fmt: skip
    assert read == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 15_000, "synchronous": 2}


def test_sqlite_writers_wait_for_each_other_instead_of_failing(tmp_path, sqlite_template, open_store):
    path = tmp_path / "store.db"
    path.write_bytes(Path(sqlite_template).read_bytes())
    store = open_store(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.cycles.begin, a_cycle(), AT)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)  # a writer that fails instead of waiting has failed by then
        other.execute("COMMIT")
        assert waiting.result(timeout=60) == "started"
    other.close()


exact = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=18)
times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.timezones())  # noqa: DTZ001  (bounds are naive by contract)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(price=exact, at=times)
def test_money_and_times_come_back_as_they_went(store, price, at):
    point = EquityPoint(at=at, strategy="default", equity=price, peak=Decimal(0))
    store.equity.save(point)
    [back] = [p for p in store.equity.since("default", point.at) if p.at == point.at]
    assert back == point
    assert back.equity.as_tuple() == point.equity.as_tuple()
    assert back.at.tzinfo is UTC


def test_times_are_ordered_whatever_their_fraction(store):
    for part in (minutes(0), minutes(1 / 60), minutes(0.5 / 60), minutes(1e-6)):
        store.equity.save(EquityPoint(at=AT + part, strategy="default", equity=Decimal(1), peak=Decimal(1)))
    at = [point.at for point in store.equity.since("default", AT)]
    assert at == sorted(at)
    assert len(at) == 4


def test_price_is_kept_as_exact_text_in_sqlite(tmp_path, sqlite_template, open_store):
    path = tmp_path / "store.db"
    path.write_bytes(Path(sqlite_template).read_bytes())
    open_store(f"sqlite:///{path}").fills.save([a_fill()])
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT price, typeof(price) FROM fills").fetchone() == ("65000.123456789012345678", "text")


def test_json_is_jsonb_and_money_numeric_in_postgresql(store):
    if not store.database.is_postgres:
        pytest.skip("types of PostgreSQL")
    columns = text("SELECT table_name || '.' || column_name, data_type FROM information_schema.columns "
                   "WHERE table_schema = 'public'")  # fmt: skip
    with store.database.reading() as connection:
        kinds = dict(connection.execute(columns).all())
    assert kinds["positions.followups"] == kinds["instruments.document"] == kinds["verdicts.codes"] == "jsonb"
    assert kinds["cycles.record"] == "json"
    assert kinds["fills.price"] == kinds["equity.equity"] == "numeric"
    assert kinds["cycles.as_of"] == "timestamp with time zone"


def test_text_that_a_database_refuses_is_made_storable():
    assert storable({"a\0": ["x\ud800y", float("nan"), 1.5, "grün 🚢"]}) == {
        "a\ufffd": ["x\ufffdy", None, 1.5, "grün 🚢"]
    }


def test_select_one_row_per_table_is_what_counts_says(store):
    store.cycles.begin(a_cycle(), AT)
    counts = store.counts()
    assert set(counts) == set(Base.metadata.tables)
    with store.database.reading() as connection:
        assert len(connection.execute(select(Base.metadata.tables["cycles"])).all()) == counts["cycles"] == 1
