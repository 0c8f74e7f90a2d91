"""Every value that was read as a secret, in whatever text it turns up: replaced; ordinary words stay."""

import logging
import traceback
from pathlib import Path

import pytest

from tasks.adapters.store.database import parse_url
from tasks.core.errors import InputError
from tasks.redaction import guard_logs, redacted, secrets_of
from tasks.settings import PREFIX, Settings, load

# as litellm's providers, venues, databases and servers name them
NAMES = (
    "OPENAI_API_KEY", "WATSONX_APIKEY", "WATSONX_ZENAPIKEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "VERTEXAI_CREDENTIALS", "SNOWFLAKE_JWT", "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "AWS_BEARER_TOKEN_BEDROCK", "PGPASSWORD", "MYSQL_PWD", "SENTRY_DSN", "QUARTERDECK_VENUE_KEY",
    "QUARTERDECK_VENUE_PASSWORD", "QUARTERDECK_ALERT_URLS", "GIGACHAT_CREDENTIALS", "lower_api_key",
    "PROXY_AUTHORIZATION",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_credential_of_the_environment_is_known_by_its_value(name, monkeypatch):
    monkeypatch.setenv(name, "planted-value-0f")
    assert redacted(f"401: planted-value-0f, {name} is wrong") == f"401: ***, {name} is wrong"


def test_where_a_shell_is_and_was_and_who_writes_is_no_secret(monkeypatch):
    for name in ("PWD", "OLDPWD", "GIT_AUTHOR_NAME"):
        monkeypatch.setenv(name, "/srv/planted")
    assert redacted("no /srv/planted/quarterdeck.toml") == "no /srv/planted/quarterdeck.toml"


def test_every_credential_that_litellm_reads_has_a_name_of_the_pattern():
    """By the source of the installed release: names that end as secrets do, whatever comes before."""
    import re

    import litellm

    from tasks.redaction import CREDENTIAL

    source = Path(litellm.__file__).parent / "llms"
    read = re.compile(r"(?:getenv|get_secret_str|get_secret|environ\.get)\(\s*\"([A-Z0-9_]+)\"")
    names = {name for file in source.rglob("*.py") for name in read.findall(file.read_text(errors="replace"))}
    credentials = {name for name in names if re.search("KEY|TOKEN|SECRET|PASS|CRED|JWT", name)}
    assert len(credentials) > 100
    assert [name for name in credentials if not CREDENTIAL.search(name)] == []


@pytest.mark.parametrize(("url", "secret"), [
    ("postgresql://me:planted%2F0f@host:5432/a", {"planted%2F0f", "planted/0f"}),
    ("postgresql://host/a?user=me&password=planted-0f&sslpassword=planted-1f", {"planted-0f", "planted-1f"}),
    ("https://planted-0f@feeds.example/rss", {"planted-0f"}), ("postgresql://planted@/a?host=%2Fhome", set()),
    ("https://feeds.example/rss?api_key=planted-0f#x", {"planted-0f"}),
    ("http://127.0.0.1:8891/v5?symbol=BTCUSDT", set()), ("sqlite:////var/lib/quarterdeck.db", set()),
])  # fmt: skip
def test_what_is_secret_in_a_url(url, secret):
    assert secrets_of(url) == secret


def test_settings_of_toml_are_known_too(tmp_path, monkeypatch):
    (tmp_path / "quarterdeck.toml").write_text(
        'alert_urls = "discord://planted-id/planted-token-2f"\nnews_feeds = "https://feeds.example/rss?token=planted-3f"\n'
        'mlflow_url = "http://me:planted-4f@127.0.0.1:5510"\n'
    )
    monkeypatch.setenv("QUARTERDECK_TOML", str(tmp_path / "quarterdeck.toml"))
    monkeypatch.delenv("QUARTERDECK_MLFLOW_URL", raising=False)
    load()
    said = "POST /planted-id/planted-token-2f, GET rss?token=planted-3f, me:planted-4f@127.0.0.1"
    assert redacted(said) == "POST /***/***, GET rss?token=***, me:***@127.0.0.1"


def test_ordinary_words_and_numbers_stay(monkeypatch):
    for name, value in (("QUARTERDECK_SANDBOX_KEY", "sandbox"), ("DEFAULT_MAX_TOKENS", "200000"), ("A_PASSWORD", "x")):
        monkeypatch.setenv(name, value)
    assert redacted("the sandbox fixed 200000 x") == "the sandbox fixed 200000 x"


HIDDEN = [name for name, field in Settings.model_fields.items() if name.endswith(("_url", "_urls", "_feeds"))]


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("toml", ['{name} = {{url = "planted-5f://a"}}', '{name} = [["planted-5f"]]'])
def test_a_secret_of_the_wrong_type_is_refused_without_being_shown(name, toml, tmp_path, monkeypatch):
    (tmp_path / "quarterdeck.toml").write_text(toml.format(name=name))
    monkeypatch.setenv("QUARTERDECK_TOML", str(tmp_path / "quarterdeck.toml"))
    monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    with pytest.raises(InputError, match=PREFIX + name.upper()) as caught:
        load()
    assert "planted-5f" not in "".join(traceback.format_exception(caught.value))


def test_any_other_setting_says_what_it_was(monkeypatch):
    monkeypatch.setenv("QUARTERDECK_WORKERS", "many")
    with pytest.raises(InputError, match="QUARTERDECK_WORKERS='many': "):
        load()


def test_a_log_record_carries_no_secret_nor_does_its_traceback(monkeypatch, caplog):
    monkeypatch.setenv("WATSONX_APIKEY", "planted-6f")
    guard_logs()
    guard_logs()
    log = logging.getLogger("quarterdeck.planted")
    try:
        raise ValueError("refused: planted-6f")
    except ValueError:
        log.exception("asked with %s and %d", "planted-6f", 3)
    assert "asked with *** and 3" in caplog.text
    assert "refused: ***" in caplog.text
    assert "planted-6f" not in caplog.text


@pytest.mark.parametrize(
    "url", ["mysql://me@host/a?password=planted-7f", "mysql://me:planted-7f@host/a", "sqlite://?password=planted-7f"]
)
def test_a_database_url_that_is_refused_keeps_its_password(url):
    with pytest.raises(InputError) as caught:
        parse_url(url)
    assert "planted-7f" not in str(caught.value)
