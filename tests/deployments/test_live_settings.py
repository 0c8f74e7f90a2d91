"""A settings file that changes while the system runs: all of it or nothing, and why not in a line."""

import os
from decimal import Decimal

import pytest

from deployments.live_settings import TOML, LiveSettings
from tasks.core.errors import InputError
from tasks.settings import load

GOOD = 'symbols = ["BTC/USDT:USDT", "ETH/USDT:USDT"]\n[limits]\nmax_trade_risk_pct = 0.5\n'


@pytest.fixture
def files(home, tmp_path):
    own, copy = tmp_path / "quarterdeck.toml", home / "started.toml"
    own.write_text(GOOD)
    copy.write_text(GOOD)
    return own, copy


def take(own, copy):
    """Look twice."""
    live = LiveSettings(own, copy)
    assert live.take() == []
    return live.take()


def test_what_is_good_is_in_force_and_said_and_then_nothing_changed(files):
    own, copy = files
    assert take(own, copy) == []
    own.write_text(GOOD.replace("0.5", "0.25") + "max_positions = 2\n")
    assert take(own, copy) == [
        "limits.max_trade_risk_pct is 0.25 now, it was 0.5", "limits.max_positions is 2 now, it was 5",
    ]  # fmt: skip
    assert copy.read_text() == own.read_text()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert take(own, copy) == []
    assert TOML not in os.environ


def test_a_comment_alone_changes_nothing_and_a_file_that_goes_takes_its_values_along(files):
    own, copy = files
    own.write_text(f"# mine\n{GOOD}")
    assert take(own, copy) == []
    assert copy.read_text() == own.read_text()
    own.unlink()
    assert len(take(own, copy)) == 1
    assert copy.read_text() == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD.replace("0.5", '"a lot"'), "QUARTERDECK_LIMITS__MAX_TRADE_RISK_PCT='a lot'"),
        (GOOD.replace("max_trade_risk_pct", "max_trade_risk"), "QUARTERDECK_LIMITS__MAX_TRADE_RISK"),
        ("symbols = [", "cannot be read"),
        (f'profile = "paper"\n{GOOD}', "profile cannot change without a restart"),
        (f"workers = 3\nclose_offset_s = 9\n{GOOD}", "close_offset_s, workers cannot change without a restart"),
        (GOOD.replace("ETH", "SOL"), r"symbols \(the sandbox lacks some\) cannot change without a restart"),
    ],
    ids=["value", "unknown", "broken", "fixed", "several", "sandbox"],
)
def test_what_is_not_good_changes_nothing_and_names_file_and_value(files, monkeypatch, text, why):
    own, copy = files
    own.write_text(text)
    monkeypatch.setenv(TOML, str(copy))
    for _ in range(2):
        with pytest.raises(InputError, match=why) as error:
            take(own, copy)
        assert str(error.value).startswith(f"{own}: ")
    assert copy.read_text() == GOOD
    assert load().limits.max_trade_risk_pct == Decimal("0.5")


def test_a_file_that_is_no_text_is_refused(files):
    own, copy = files
    own.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="still is"):
        take(own, copy)
    assert copy.read_text() == GOOD


@pytest.mark.parametrize("half", ["", GOOD[:20], GOOD.partition("[limits]")[0], None], ids=repr)
def test_what_an_editor_has_half_written_is_never_in_force_nor_told(files, half):
    own, copy = files
    live = LiveSettings(own, copy)
    own.write_text(half) if half is not None else own.unlink()
    assert live.take() == []
    own.write_text(GOOD.replace("0.5", "0.25"))
    assert live.take() == []
    assert copy.read_text() == GOOD
    assert live.take() == ["limits.max_trade_risk_pct is 0.25 now, it was 0.5"]


def test_a_file_as_windows_writes_it_counts_as_it_is(files):
    own, copy = files
    own.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("0.5", "0.25").replace("\n", "\r\n").encode())
    assert take(own, copy) == ["limits.max_trade_risk_pct is 0.25 now, it was 0.5"]
    assert take(own, copy) == []
