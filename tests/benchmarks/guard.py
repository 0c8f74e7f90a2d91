"""What judging a decision costs in CPU milliseconds, and what became of openings that models really asked for."""

import sys
import time
from collections import Counter
from decimal import Decimal as D

from tasks.core.trading.guard import guard
from tasks.core.types.strategy import Strategy
from tasks.settings import ROOT

sys.path[:0] = [str(ROOT / "tests" / part) for part in ("core", "adapters")]

import guard_cases as cases  # noqa: E402  (the tests' modules stand on no path but this)
import real_opens  # noqa: E402

COUNT, WARM = 5000, 300
LOSSES = tuple(cases.closed(closed_at=cases.ago(hours=2 + i / 4), pnl=D(i % 7 - 3)) for i in range(50))
BUSY = cases.account(
    available=D(9_000), peak_equity=D(10_100), day_start_equity=D(10_050), closed_trades=LOSSES, kelly=D("0.2"),
    positions=tuple(
        cases.position(symbol=f"X{i}/USDT:USDT", quantity=D(1), mark_price=D(101), initial_stop=D(98)) for i in range(4)
    ),
    opens=tuple(cases.ago(hours=2 + i) for i in range(11)), correlations={f"X{i}/USDT:USDT": 0.5 for i in range(4)},
)  # fmt: skip


def main() -> None:
    """Print the mean of judging, and of writing the verdict down."""
    strategy, snapshot = Strategy(), cases.seen()
    held = cases.holding(mark_price=D(101))
    for name, decision, state in (
        ("entry, flat account", cases.asked(), cases.account()),
        ("entry, clamped", cases.asked(size_pct=D(500)), cases.account()),
        ("entry, 4 positions, 50 trades", cases.asked(), BUSY),
        ("move stop", cases.move("atr", "-0.5"), held),
    ):
        for _ in range(WARM):
            verdict = guard.judge(decision, snapshot, state, strategy, now=cases.NOON)
        started = time.process_time()
        for _ in range(COUNT):
            verdict = guard.judge(decision, snapshot, state, strategy, now=cases.NOON)
        judged = (time.process_time() - started) / COUNT * 1000
        started = time.process_time()
        for _ in range(COUNT):
            text = verdict.model_dump_json()
        written = (time.process_time() - started) / COUNT * 1000
        print(
            f"{name:30} allowed={verdict.allowed!s:5} checks={len(verdict.checks)} n={COUNT} cpu_ms={judged:.4f} "
            f"written_ms={written:.4f} bytes={len(text)}"
        )
    real()


def real() -> None:
    """Print which codes fired on the openings that language models really asked for."""
    if not real_opens.there():
        print("real openings: not here; they need ../shared/data")
        return
    asked = sum(entry["action"].startswith("open") for entry, _ in real_opens.replies.entries())
    for flat in (False, True):
        for sided in (True, False):
            found = real_opens.opens(flat, sided)
            codes = Counter(code.value for one in found if one.verdict for code in one.verdict.codes)
            codes.update(f"refused by the parser: {one.refused}" for one in found if one.refused)
            allowed = sum(bool(one.verdict and one.verdict.allowed) for one in found)
            risk = max((one.verdict.trade_risk_pct for one in found if one.verdict), default=D(0))
            print(
                f"real openings: {len(found)} of {asked}, account {'flat' if flat else 'as stated'}, stops "
                f"{'by their side' if sided else 'by distance alone'}: allowed={allowed} max_trade_risk_pct={risk}"
            )
            for code, times in codes.most_common():
                print(f"  {times:3} {code}")
