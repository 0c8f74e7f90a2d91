"""Every setting as a person writes it in the environment, by the table of the docs."""

import re
from functools import reduce

import pytest

from tasks.core.errors import InputError
from tasks.settings import ROOT, Settings, load

ROWS = dict(re.findall(r"^\| `([A-Z][A-Z_]+)` \| `([^`|]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.M))


def value(read: Settings, name: str) -> object:
    return reduce(getattr, name.lower().split("__"), read)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("HOME", "MLFLOW_URL", "BUDGET__USD_PER_1K_TOKENS", "NO_MODEL_CALLS"):
        monkeypatch.delenv(f"QUARTERDECK_{name}", raising=False)


def test_each_default_may_be_written_as_the_docs_show_it(monkeypatch):
    usual = load()
    assert len(ROWS) > 100
    for name, text in ROWS.items():
        with monkeypatch.context() as one:
            one.setenv(f"QUARTERDECK_{name}", text)
            assert value(load(), name) == value(usual, name), name


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("WATCH_EVERY_S", "300", 300),
        ("EVENTS__R_LEVELS", "1,2.5", (1, 2.5)),
        ("SYMBOLS", "ETH/USDT,BTC/USDT,ETH/USDT", ("ETH/USDT", "BTC/USDT")),
        ("EVENTS__R_LEVELS", "[1, 2.5]", (1, 2.5)),
    ],
)
def test_numbers_and_lists_are_read_from_text(monkeypatch, name, text, read):
    monkeypatch.setenv(f"QUARTERDECK_{name}", text)
    assert value(load(), name) == read


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("LIMITS__PER_SYMBOL", "BTC=2", r"^QUARTERDECK_LIMITS__PER_SYMBOL='BTC=2': must be JSON"),
        ("limits", "{", r"^QUARTERDECK_limits='{': must be JSON"),
        ("WATCH_EVERY_S", "90", r"^QUARTERDECK_WATCH_EVERY_S=90: Input should be 60 or 300"),
        ("EVENTS__R_LEVELS", "1;2", r"^QUARTERDECK_EVENTS__R_LEVELS__0='1;2': "),
    ],
)
def test_what_cannot_be_read_is_named(monkeypatch, name, text, said):
    monkeypatch.setenv(f"QUARTERDECK_{name}", text)
    with pytest.raises(InputError, match=said):
        load()
