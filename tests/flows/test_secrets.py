"""Planted keys, and a model server and a venue that echo whatever they were given: nothing of it may be kept anywhere.

One story through Prefect, with every place it leaves something in: our store, MLflow's store and artifacts, Prefect's
database (runs, parameters, logs, artifacts, blocks), log lines, the command's output.
"""

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_server import Fault, ModelServer, Reply
from sandbox_server import advance, running_sandbox
from sqlalchemy import make_url

from flows.settle import settle
from flows.trade import trade
from tasks.adapters.store.store import Store
from tasks.connections import store, venue
from tasks.core.errors import InputError, StoreError
from tasks.settings import load, settings

BTC = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
PLANTED = {
    "OPENAI_API_KEY": "sk-planted-provider-1f",
    "QUARTERDECK_SANDBOX_KEY": "planted-sandbox-key-2f",
    "QUARTERDECK_SANDBOX_SECRET": "planted-sandbox-secret-3f",
    "QUARTERDECK_VENUE_KEY": "planted-venue-key-4f",
    "QUARTERDECK_VENUE_SECRET": "planted-venue-secret-5f",
    "QUARTERDECK_ALERT_URLS": "json://planted-alert-6f@127.0.0.1:1",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-7f",
    "QUARTERDECK_PREFECT_DATABASE_URL": "postgresql://me:planted-prefect-8f@127.0.0.1:1/prefect",
    "ANTHROPIC_API_KEY": "planted-other-provider-9f",
    "WATSONX_APIKEY": "planted-watsonx-10f",
    "AWS_ACCESS_KEY_ID": "planted-aws-11f",
}


@pytest.fixture
def planted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    keys = {"key": PLANTED["QUARTERDECK_SANDBOX_KEY"], "secret": PLANTED["QUARTERDECK_SANDBOX_SECRET"]}
    with running_sandbox(symbols=(BTC,), start=START, stepped=True, seed=3, **keys) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", BTC)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", f"sqlite:///{home / 'mlflow.db'}")
        monkeypatch.chdir(home)  # where MLflow without a server puts its artifacts
        settings.cache_clear()
        yield home


def places(home: Path) -> dict[str, bytes]:
    """Everything that was written: the files of HOME, and Prefect's database with what is not yet merged into it."""
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    database = Path(make_url(str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value())).database or "")
    files = [path for path in home.rglob("*") if path.is_file()]
    files += list(database.parent.glob(f"{database.name}*"))
    return {str(path): path.read_bytes() for path in files}


def hits(found: dict[str, bytes]) -> list[str]:
    return [
        f"{name}: {secret}"
        for name, content in found.items()
        for secret in PLANTED.values()
        if secret.encode() in content
    ]


@pytest.mark.slow
async def test_no_secret_is_kept_anywhere_though_model_and_venue_echo_them(
    planted, prefect_server, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    with ModelServer() as server:

        def echo(_: object) -> Reply | Fault:
            """In turn: in an error, in an answer that is none, in a reply's text, in a decision's comment."""
            named = ("WATSONX_APIKEY", "AWS_ACCESS_KEY_ID")
            seen = json.dumps(server.headers[-1] | {name: PLANTED[name] for name in named})
            assert PLANTED["OPENAI_API_KEY"] in seen
            hold = {"symbol": BTC, "action": "HOLD", "confidence": 0.5, "comment": server.headers[-1]["authorization"]}
            steps = (
                Fault("status", status=401, body=json.dumps({"error": {"message": seen}}).encode()),
                Fault("raw", body=seen.encode()), Reply(seen), Reply(json.dumps(hold)),
            )  # fmt: skip
            return steps[min(len(server.headers), len(steps)) - 1]

        server.default = echo
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/one,openai/two,openai/three")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
        settings.cache_clear()
        for _ in range(2):
            await trade(symbols=[BTC], decider="llm:single", reason="a test asks")
            advance(os.environ["QUARTERDECK_SANDBOX_URL"], 300)
        monkeypatch.setenv("QUARTERDECK_SANDBOX_SECRET", PLANTED["QUARTERDECK_VENUE_SECRET"])
        await venue().close()
        monkeypatch.setenv("QUARTERDECK_SANDBOX_KEY", PLANTED["QUARTERDECK_VENUE_KEY"])
        refused = await trade(symbols=[BTC], decider="llm:single", reason="a test asks", return_state=True)
        monkeypatch.setenv("QUARTERDECK_SANDBOX_KEY", PLANTED["QUARTERDECK_SANDBOX_KEY"])
        monkeypatch.setenv("QUARTERDECK_SANDBOX_SECRET", PLANTED["QUARTERDECK_SANDBOX_SECRET"])
        await venue().close()
        await settle(return_state=True)
        await venue().close()
        asked = len(server.headers)
    assert asked >= 4, "every kind of echo was heard"
    assert refused.is_failed()
    assert store().cycles.newest("default", BTC)
    assert store().counts()["model_calls"] >= 2
    found = places(planted) | {"log": caplog.text.encode(), "state": str(refused.message).encode()}
    assert any(name.endswith("mlflow.db") for name in found)
    assert b"a test asks" in b"".join(found.values()), "the story is really in there"
    assert hits(found) == []


def test_a_database_password_is_in_no_error(monkeypatch):
    monkeypatch.delenv("QUARTERDECK_ALERT_URLS", raising=False)
    for url in (
        "postgresql://me:planted-db-0f@127.0.0.1:1/mine", "nonsense://me:planted-db-0f@host/mine",
        "postgresql://127.0.0.1:1/mine?user=me&password=planted-db-0f", "nonsense://host/mine?password=planted-db-0f",
    ):  # fmt: skip
        with pytest.raises((StoreError, InputError)) as caught:
            Store(url)
        assert "planted-db-0f" not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "VENUE_SECRET", "DATABASE_PASSWORD"])
def test_a_secret_in_quarterdeck_toml_is_refused_without_being_shown(name, tmp_path, monkeypatch):
    (tmp_path / "quarterdeck.toml").write_text(f'{name.lower()} = "planted-toml-0f"')
    monkeypatch.setenv("QUARTERDECK_TOML", str(tmp_path / "quarterdeck.toml"))
    with pytest.raises(InputError, match=name) as caught:
        load()
    assert "planted-toml-0f" not in str(caught.value)


FAILING = {
    "a database that does not answer": 'database_url = "postgresql://me:planted-12f@127.0.0.1:1/a?sslpassword=planted-13f"',
    "a database of another kind": 'database_url = "mysql://me@h/a?password=planted-12f"',
    "a database URL of the wrong type": 'database_url = ["planted-12f"]',
    "alert addresses of the wrong type": "alert_urls = { discord = 'planted-12f' }",
    "a key that is no setting": "venue_secret = 'planted-12f'",
    "no TOML": "venue_secret = 'planted-12f",
    "addresses elsewhere": 'prefect_api_url = "http://me:planted-12f@192.0.2.1:4200/api"',
    "a sandbox that is none": 'sandbox_url = "http://me:planted-12f@venue.example"',
    "a venue elsewhere": 'profile = "paper"\nvenue_url = "http://me:planted-12f@venue.example"',
}
COMMANDS = ["up --once", "status", "doctor", "migrate", "backup all.tar.gz", "cycle --symbol X/Y"]


@pytest.mark.parametrize("toml", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_that_fails_says_a_secret(command, toml, home, monkeypatch, capfd):
    from deployments import cli, supervisor

    for name in filter(lambda name: name.startswith("QUARTERDECK_") and name != "QUARTERDECK_HOME", {**os.environ}):
        monkeypatch.delenv(name)
    (home / "quarterdeck.toml").write_text(toml)
    monkeypatch.setenv("QUARTERDECK_TOML", str(home / "quarterdeck.toml"))
    monkeypatch.setattr("sys.argv", ["quarterdeck", *command.split()])
    monkeypatch.setattr(supervisor.Supervisor, "start", _not_started)  # `up` of settings that are right
    monkeypatch.setattr(os, "umask", lambda mask: mask)  # this process goes on
    (home / "logs").mkdir()
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert "planted" not in out + err
    assert ended.value.code in (None, 0, 1, 2), "and no traceback"
    (home / "quarterdeck.toml").unlink()
    assert b"planted" not in b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


async def _not_started(_: object) -> None:
    raise InputError("not here")


def test_settings_and_doctor_show_no_secret(home, monkeypatch):
    from deployments.cli import cli

    secret = {name: value for name, value in PLANTED.items() if name != "QUARTERDECK_PREFECT_DATABASE_URL"}
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    output = CliRunner().invoke(cli, ["doctor", "--json"]).output + CliRunner().invoke(cli, ["status", "--json"]).output
    assert "planted" not in output
    assert "planted" not in repr(load())
    assert os.environ["QUARTERDECK_ALERT_URLS"] == PLANTED["QUARTERDECK_ALERT_URLS"]


def test_a_server_elsewhere_without_a_password_fails_the_doctor(monkeypatch):
    from deployments.doctor import _passwords

    for variable in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    assert not list(_passwords(load(mlflow_url="http://127.0.0.1:5510")))
    elsewhere = load(prefect_api_url="http://prefect:4200/api", mlflow_url="http://mlflow:5000")
    assert [check.result for check in _passwords(elsewhere)] == ["fail", "warn"]
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:planted-auth-0f")
    checks = list(_passwords(elsewhere))
    assert [check.result for check in checks] == ["ok", "warn"]
    assert "planted" not in str(checks)


def test_everything_up_starts_listens_on_this_machine_alone(monkeypatch):
    from deployments.services import plan

    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", "http://127.0.0.1:5510")
    services = plan(load())
    assert {"prefect", "sandbox", "mlflow"} <= set(services)
    for service in services.values():
        assert not service.url or service.url.startswith("http://127.0.0.1:")
        assert "0.0.0.0" not in service.command
    for name in ("SANDBOX_URL", "MLFLOW_URL", "PREFECT_API_URL"):
        with monkeypatch.context() as patched:
            patched.setenv(f"QUARTERDECK_{name}", "http://0.0.0.0:8891")
            with pytest.raises(InputError, match=name):
                plan(load())


def test_no_password_is_among_the_arguments_of_what_up_starts(monkeypatch):
    from deployments.services import environment, plan

    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", "http://127.0.0.1:5510")
    given = load(
        database_url="postgresql://me:planted-db@h/a", prefect_database_url="postgresql://me:planted-db@h/b",
        mlflow_database_url="postgresql://me:planted-db@h/c",
    )  # fmt: skip
    assert "planted-db" not in str([service.command for service in plan(given).values()])
    assert environment(given)["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://me:planted-db@h/c"
