"""A published prompt never changes, and aliases choose which one is used."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.adapters.files.prompts import aliases, diff_prompts, list_prompts, load_prompt
from tasks.adapters.store.store import opened
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.errors import InputError
from tasks.core.types.promotion import Move
from tasks.settings import ROOT, load, settings
from tests.closing import close_stores

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
HASHES = ROOT / "tests" / "fixtures" / "prompt_hashes.json"
TEXT = """---
role: single
version: v001
schema: decision
variables: [pair]
temperature: 0
seed: 7
max_tokens: 900
---
## system
You trade.

## user
Pair: ${pair}
"""


def differences(found: dict[str, str], published: dict[str, str]) -> list[str]:
    """Return one line for every prompt file that is not as it was published."""
    changed = [n for n, sha in found.items() if published.get(n, sha) != sha]
    return [
        *(f"{name} changed: restore it and save the change as the next version" for name in changed),
        *(f"{name} is gone: records refer to it, restore it" for name in published if name not in found),
        *(f'{n} is new: add "{n}": "{sha}" to {HASHES.name}' for n, sha in found.items() if n not in published),
    ]


def test_every_published_prompt_is_as_it_was_published():
    found = {f"{prompt.name}/{prompt.version}": prompt.sha256 for prompt in list_prompts()}
    assert not (said := differences(found, json.loads(HASHES.read_text()))), "\n".join(said)


def test_a_changed_a_lost_and_a_new_file_are_each_named_with_what_to_do():
    said = differences({"a/v001": "1", "b/v001": "2"}, {"a/v001": "9", "c/v001": "3"})
    assert said == [
        "a/v001 changed: restore it and save the change as the next version",
        "c/v001 is gone: records refer to it, restore it",
        'b/v001 is new: add "b/v001": "2" to prompt_hashes.json',
    ]
    assert differences({"a/v001": "1"}, {"a/v001": "1"}) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "single").mkdir()
    for version in ("v001", "v002", "v003"):
        text = TEXT.replace("v001", version).replace("You trade.", f"You trade, {version}.")
        (tmp_path / "single" / f"{version}.md").write_text(text)
    return tmp_path


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """A state of its own: the aliases lie in its database."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("QUARTERDECK_HOME", str(path))
    settings.cache_clear()
    yield path
    close_stores()
    settings.cache_clear()


def set_alias(prompt: Prompt, alias: str) -> None:
    opened(settings().store_url).prompts.move(
        Move(
            at=AT, role=prompt.name, alias=alias, version=prompt.version, sha256=prompt.sha256, kind="pinned", who="me"
        )
    )


def version(folder: Path, wanted: str | None = None) -> str:
    return load_prompt("single", wanted, folder).version


def test_the_champion_is_used_where_no_version_is_named_else_the_latest(folder):
    assert version(folder) == "v003"
    set_alias(load_prompt("single", "v001", folder), "champion")
    assert version(folder) == "v001"
    assert version(folder, "v002") == "v002"
    set_alias(load_prompt("single", "v002", folder), "champion")
    assert version(folder) == "v002"


def test_a_challenger_is_asked_for_by_name_and_leaves_the_champion_alone(folder):
    with pytest.raises(InputError, match="no prompt single/challenger; there is v001, v002, v003"):
        version(folder, "challenger")
    set_alias(load_prompt("single", "v002", folder), "champion")
    set_alias(load_prompt("single", "v003", folder), "challenger")
    assert (version(folder), version(folder, "champion"), version(folder, "challenger")) == ("v002", "v002", "v003")
    assert {alias: to.version for alias, to in aliases()["single"].items()} == {
        "champion": "v002", "challenger": "v003"
    }  # fmt: skip


def test_a_champion_whose_file_is_gone_is_said_and_nothing_else_is_used(folder):
    set_alias(load_prompt("single", "v003", folder), "champion")
    (folder / "single" / "v003.md").unlink()
    with pytest.raises(InputError, match="no prompt single/v003; there is v001, v002"):
        version(folder)


def test_a_champion_whose_file_is_another_here_is_not_used(folder):
    set_alias(load_prompt("single", "v002", folder), "champion")
    path = folder / "single" / "v002.md"
    path.write_text(path.read_text() + "Sneaky.\n")
    with pytest.raises(InputError, match="bring this machine's prompts up to date"):
        version(folder)


def test_where_no_alias_was_ever_set_no_database_is_made(folder, home):
    assert version(folder) == "v003"
    assert list(home.iterdir()) == []


def test_a_diff_shows_what_changed_and_takes_aliases(folder):
    set_alias(load_prompt("single", "v001", folder), "champion")
    said = diff_prompts("single", "champion", "v002", folder)
    assert said.splitlines()[:2] == ["--- single/v001", "+++ single/v002"]
    assert {"-You trade, v001.", "+You trade, v002."} <= set(said.splitlines())
    assert diff_prompts("single", "v002", "v002", folder) == ""


@pytest.mark.parametrize(
    "name", ["../single", "single/../panel", "/etc", "", "sin gle", "single\n", "\x1b[31m", "x" * 41]
)
def test_a_role_or_version_that_is_no_name_is_refused(name):
    with pytest.raises(InputError, match=r"prompt role .* is no name"):
        load_prompt(name, "v001")
    if name:
        with pytest.raises(InputError, match=r"prompt version .* is no name"):
            load_prompt("single", name)


@pytest.mark.parametrize(
    "symbol", ["../../x", "BTC/USDT/../x", "BTC", "BTC/USDT:USDT\n", "<b>/USDT", "BTC/US DT", "\x1b/USDT"]
)
def test_a_symbol_or_strategy_that_is_no_name_is_refused(symbol, monkeypatch):
    monkeypatch.delenv("QUARTERDECK_SYMBOLS", raising=False)
    with pytest.raises(InputError, match="QUARTERDECK_SYMBOLS"):
        load(symbols=(symbol,))
    with pytest.raises(InputError, match="QUARTERDECK_STRATEGY"):
        load(strategy=symbol)
    for name in ("BTC/USDT:USDT", "1000PEPE/USDT:USDT", "kPEPE/USDC:USDC", "BTC/USDT:USDT-250627", "ETH/BTC"):
        assert load(symbols=(name,)).symbols == (name,)
