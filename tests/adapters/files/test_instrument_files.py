"""Files that name instruments, and every symbol's instrument from file, store and candles together."""

from datetime import timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest
from instrument_cases import linear, spot
from market_data import walk

from tasks.adapters.files.instruments import read_instruments, resolved
from tasks.core.errors import InputError
from tasks.core.types.orders import InstrumentTerms

PERP, SPOT = "BTC/USDT:USDT", "DOGE/USDT"


def written(folder: Path, text: str, suffix: str = "json") -> Path:
    path = folder / f"terms.{suffix}"
    path.write_text(text)
    return path


def test_json_and_toml_say_the_same_to_the_last_digit(tmp_path):
    json = written(tmp_path, '{"BTC/USDT:USDT": {"tick": 0.1000, "step": 1e-18, "leverage": 12.5, "shorting": false}}')
    toml = written(
        tmp_path, '["BTC/USDT:USDT"]\ntick = 0.1000\nstep = 1e-18\nmax_leverage = "12.5"\nshorting = false', "toml"
    )
    terms = InstrumentTerms(tick=D("0.1"), step=D("1e-18"), max_leverage=D("12.5"), shorting=False)
    assert read_instruments(json, [PERP]) == read_instruments(toml, [PERP]) == {PERP: terms}
    assert str(read_instruments(toml, [PERP])[PERP].tick) == "0.1000"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"BTC/USDT:USDT": {"tik": 0.1}}', "BTC/USDT:USDT: tik is 0.1: no such key; there are tick, step"),
        ('{"BTC/USDT:USDT": {"tick": 0}}', "BTC/USDT:USDT: tick is 0: give a number from 1e-18 to 1e18"),
        ('{"BTC/USDT:USDT": {"tick": 1e-400}}', "BTC/USDT:USDT: tick is 1E-400: give a number from 1e-18 to 1e18"),
        ('{"BTC/USDT:USDT": {"step": 1e99}}', "BTC/USDT:USDT: step is 1E+99: give a number from 1e-18 to 1e18"),
        ('{"BTC/USDT:USDT": {"tick": true}}', "BTC/USDT:USDT: tick is true: give a number from 1e-18 to 1e18"),
        ('{"BTC/USDT:USDT": {"step": NaN}}', "BTC/USDT:USDT: step is NaN: give a number from 1e-18 to 1e18"),
        ('{"BTC/USDT:USDT": {"step": "some"}}', 'BTC/USDT:USDT: step is "some": give a number from 1e-18 to 1e18'),
        ('{"BTC/USDT:USDT": {"min_quantity": -1}}', "min_quantity is -1: give a number from 0 to 1e18"),
        ('{"BTC/USDT:USDT": {"shorting": "maybe"}}', 'shorting is "maybe": give true or false'),
        ('{"BTC/USDT:USDT": {"kind": "option"}}', 'kind is "option": give spot or linear'),
        ('{"BTC/USDT:USDT": {"kind": "spot"}}', "kind is spot: by its form it is linear"),
        ('{"BTC/USDT:USDT": {"leverage": 5, "max_leverage": 5}}', "leverage is 5: no such key"),
        ('{"DOGE/USDT": {"shorting": true}}', "DOGE/USDT: shorting is true: spot is never sold short"),
        ('{"DOGE/USDT": {"leverage": 3}}', "DOGE/USDT: max_leverage is 3: spot has 1"),
        ('{"BTCUSDT": {"tick": 0.1}}', "BTCUSDT: not a symbol such as BTC/USDT:USDT"),
        ('{"ETH/USDT:USDT": {"tick": 0.1}}', "ETH/USDT:USDT: is not traded, but BTC/USDT:USDT is"),
        ('{"BTC/USDT:USDT": 0.1}', "BTC/USDT:USDT: is "),
        ("[]", 'write {"BTC/USDT:USDT"'),
        ("{", "not JSON"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_instruments(path, [PERP])
    assert f"--instruments {path}: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("none.json", "cannot be read"), ("terms.yaml", "ends in .json or .toml")])
def test_a_file_that_is_not_there_or_of_no_known_kind_is_named(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        read_instruments(tmp_path / name, [PERP])


def test_toml_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="not TOML"):
        read_instruments(written(tmp_path, "tick 0.1", "toml"), [PERP])


def test_a_file_may_name_more_than_is_traded_when_all_that_is_traded_is_in_it(tmp_path):
    path = written(tmp_path, '{"BTC/USDT:USDT": {"tick": 1}, "DOGE/USDT": {"tick": 2}}')
    assert list(read_instruments(path, [PERP])) == [PERP, SPOT]
    assert read_instruments(written(tmp_path, "{}"), [PERP]) == {}


def test_each_symbol_has_the_best_that_is_known_of_it(tmp_path):
    bars = walk(300)
    decision = bars.index[200].to_pydatetime() + timedelta(minutes=5)
    path = written(tmp_path, '{"BTC/USDT:USDT": {"step": 2}}')
    kept = {"ETH/USDT:USDT": linear("ETH/USDT:USDT", tick=D(7))}
    names = (PERP, "ETH/USDT:USDT", SPOT)
    found = resolved(dict.fromkeys(names, bars), dict.fromkeys(names, decision), path, kept.get)
    assert found == {
        PERP: (linear(step=D(2), tick=D("0.0001")), "file+inferred"),
        "ETH/USDT:USDT": (kept["ETH/USDT:USDT"], "ingested"),
        SPOT: (spot(SPOT, tick=D("0.0001")), "inferred"),
    }
    assert resolved({SPOT: bars}, {SPOT: decision}, None, kept.get) == {SPOT: found[SPOT]}
