"""The same inputs give the same fingerprint: again, in another process, and after any interruption."""

import asyncio
import hashlib
import os
import pickle
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from replayed import backtest
from resumed_runs import ROOT, Counting, markets, replay

from tasks.core.errors import InputError
from tasks.core.market.moments import rounded, significant
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.resume import EarlierRun, ResumedDecider
from tasks.core.types.limits import Limits
from tasks.core.types.record import CycleRecord


@pytest.fixture(scope="module")
def whole() -> tuple[Backtest, list[bytes], list[CycleRecord]]:
    return replay(Counting())


def test_the_fingerprint_is_the_hash_of_the_records_written(whole) -> None:
    result, lines, records = whole
    assert result.fingerprint == hashlib.sha256(b"".join(lines)).hexdigest()
    assert len(result.outcomes) > 10
    assert [line.decode() for line in lines] == [record.model_dump_json() + "\n" for record in records]
    assert CycleRecord.model_validate_json(lines[-1]) == records[-1]


def test_markets_that_were_pickled_give_the_same_fingerprint(whole) -> None:
    used = markets()
    asyncio.run(backtest(used, Counting()).run())
    again = backtest(pickle.loads(pickle.dumps(used)), Counting())
    assert asyncio.run(again.run()).fingerprint == whole[0].fingerprint


def test_a_drawdown_that_halts_entries_is_reported_with_its_time() -> None:
    result, _, records = replay(Counting(), limits=Limits(drawdown_halt_pct=Decimal("0.05")))
    assert result.halted_at is not None
    assert result.summary()["halted_at"] == result.halted_at
    assert all(
        not record.intents or record.intents[0].reduce_only for record in records if record.as_of >= result.halted_at
    )


def test_another_process_prints_the_same_fingerprint(whole) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "core")])
    other = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "17"}
    done = subprocess.run([sys.executable, "-m", "resumed_runs"], capture_output=True, text=True, env=other, check=True)
    assert done.stdout.split()[-1] == whole[0].fingerprint


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_resumed_run_asks_only_for_the_rest_and_ends_the_same(share, whole) -> None:
    _, lines, _ = whole
    kept, decider = EarlierRun(lines[: int(len(lines) * share)]), Counting()
    result, again, _ = replay(ResumedDecider(decider, kept))
    known = [kept.has(line) for line in again]
    assert result.fingerprint == whole[0].fingerprint
    assert known.count(True) == len(kept.hashes) == int(len(lines) * share)
    assert decider.asked <= len(lines) - len(kept.hashes) + 1  # one close of both symbols may be asked about again


def test_a_run_of_other_limits_is_not_resumed(whole) -> None:
    kept = EarlierRun(whole[1][:50])
    _, other, _ = replay(ResumedDecider(Counting(), kept), limits=Limits(max_trade_risk_pct=Decimal("0.5")))
    with pytest.raises(InputError, match="record 1 differs"):
        kept.has(other[0])


def test_symbols_with_a_reason_at_one_close_are_asked_about_together() -> None:
    decider = Counting()
    _, _, records = replay(decider)
    assert decider.together == 2
    by_close = {}
    for record in records:
        by_close.setdefault(record.as_of, []).append(record)
    both = [
        pair for pair in by_close.values() if len(pair) == 2 and any(fill.reason == "entry" for fill in pair[0].fills)
    ]
    assert both
    for first, second in both:  # what the first sent fills at the next open: for the second it is a pending entry
        assert second.inputs.state is not None
        assert second.state.equity == second.inputs.state.equity
        assert [each.symbol for each in second.state.pending] == [first.symbol]
        assert second.state.available < second.inputs.state.available
        assert first.inputs.state is None


NUMBERS = st.one_of(
    st.floats(), st.floats(min_value=1e-6, max_value=1e6),
    st.integers(-10_000_000, 10_000_000).map(lambda n: n / 10),  # seven digits: ties between two of six
    st.integers(-30, 30).map(lambda n: 10.0**n), st.integers(-30, 30).map(lambda n: np.nextafter(10.0**n, 0)),
)  # fmt: skip


@given(arrays(np.float64, 50, elements=NUMBERS))
def test_rounding_many_at_once_gives_the_digits_of_rounding_one(values: np.ndarray) -> None:
    many = [None if np.isnan(value) else value for value in rounded(values).tolist()]
    one = [significant(value) for value in values.tolist()]
    assert [str(value) for value in many] == [str(value) for value in one]  # also tells -0.0 from 0.0
