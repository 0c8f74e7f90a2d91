"""`Quarterdeck-v0`: the very replay of `quarterdeck backtest`, stepped from one decision point to the next.

There is no second simulator: the replay asks its decider as ever, and that decider hands the question out and waits
for an action. So events, guard, fills, fees, spread, impact, funding and follow-ups are those of `backtest`, and a
policy earns here what it earns there, to the last digit.

- **observation**: what a policy file reads, `rl.policy_input(rl.state(...))`: values, then the mask of the unknown.
- **action**: one of `rl.CHOICES`, with the usual numbers of size, stop and target (`baselines.USUAL`, or those given).
  The guard judges it; what it denies is HOLD, and `info["codes"]` says why. `info["action_mask"]` has what is allowed.
- **reward**: `reward` of `core.lab.rl`: ln(equity after / equity before) at the two decision points, the last one up to
  the end of the window. They add up to ln(last equity / first equity). Equity at or below 0 is RUIN, and terminates.
- **an episode** ends with its window, truncated: there is no question then, and the last observation stands once more.
"""

import gc
import math
import types
from collections.abc import Coroutine, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
from gymnasium import spaces
from numpy import ndarray

from tasks.adapters.files.candles import read_candles
from tasks.adapters.files.funding import read_funding
from tasks.adapters.parallel_backtests import ReplayFiles, strategy_over
from tasks.core.decision.baselines import USUAL, usual
from tasks.core.decision.kinds import Kind
from tasks.core.lab import rl
from tasks.core.lab.compare import BacktestWindow
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import World
from tasks.core.types import (
    Answer,
    CycleRecord,
    CycleStatus,
    Decision,
    InputError,
    Json,
    PromptRef,
    Question,
    Strategy,
    Texts,
    answered,
    duration,
)
from tasks.settings import settings

NAME = "gymnasium"  # the decider that records name
WARM_UP = timedelta(days=3)  # of candles before an episode that the seed places, where there are as many
DRAWS = 20  # starts that are tried until a window has a decision in it


class _Asked:
    """A decider that hands its questions out of the replay, to whoever drives it, and waits for the answers."""

    name, kind = NAME, Kind()
    prompts: tuple[PromptRef, ...] = ()

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return await _handed_out(questions)


@types.coroutine
def _handed_out(questions: Sequence[Question]) -> Generator[Sequence[Question], list[Answer], list[Answer]]:
    return (yield questions)


class TradingEnv(gymnasium.Env[ndarray, np.int64]):
    """One symbol's account over candles, from one decision point to the next.

    candles: a file as `backtest --candles` takes it, or a frame as `bar_frame` makes it. days: how long an episode is,
    whose start the seed picks; without it is all there is between start and end. parameters: numbers by action instead
    of the usual ones, such as a policy's card has. strategy: instead of the one that the settings and candles make.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        candles: str | Path | pd.DataFrame,
        symbol: str,
        *,
        days: float | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        instruments: str = "",
        funding: str = "",
        parameters: Mapping[str, Json] = USUAL,
        strategy: Strategy | None = None,
        render_mode: str | None = None,
    ) -> None:
        s = settings()
        bars = candles if isinstance(candles, pd.DataFrame) else read_candles(Path(candles))
        self.market = Market.from_base(symbol, bars, s.events)
        opens = self.market.bars["5m"].index
        if not len(opens):
            raise InputError(f"{symbol}: events and replays need candles of 5m or finer")
        self.start, self.end = start or opens[0].to_pydatetime(), end or opens[-1].to_pydatetime() + duration("5m")
        self.days, self.symbol, self.render_mode = days and timedelta(days=days), symbol, render_mode
        files = ReplayFiles(candles=(), instruments=instruments, calendar=str(s.calendar or ""))
        window = BacktestWindow(start=self.start, end=self.end)
        self.strategy = strategy or strategy_over(s, NAME, {symbol: self.market}, files, window)[0]
        rates = {symbol: read_funding(Path(funding))} if funding else {}
        self.world = World(latency_s=s.decision_latency_s, calendar=files.events(), funding=rates)
        self.decisions = [usual(action, symbol, NAME, parameters) for action in rl.CHOICES]
        self.observation_space = spaces.Box(-1, 1, (2 * len(rl.COMPONENTS),), np.float32)
        self.action_space = spaces.Discrete(len(rl.CHOICES))
        self.question: Question | None = None  # the one that the next action answers
        self._running: Coroutine[Any, Any, Any] | None = None
        self._recorded: CycleRecord | None = None

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[ndarray, Json]:
        """Begin an episode; options: `start`, an ISO time or datetime, instead of the seed's."""
        super().reset(seed=seed)
        at = (options or {}).get("start")
        if isinstance(at, str):
            at = datetime.fromisoformat(at)
        for _ in range(DRAWS):
            start = (at if at.tzinfo else at.replace(tzinfo=UTC)) if at else self._drawn()
            if self._begin(start):
                return self._observed(), self._info()
            if at or not self.days:
                break
        raise InputError(f"{self.symbol}: no decision falls between {start} and {self.end}; take more candles")

    def step(self, action: np.int64 | int) -> tuple[ndarray, float, bool, bool, Json]:
        """Answer the open question; see the module for what comes back."""
        if self.question is None:
            raise InputError("this episode is over, or none has begun: reset the environment")
        before, asked = self._equity, self.decisions[int(action)]
        over = not self._sent([answered(asked, NAME)])
        after = float(self.replay.equity[-1]) if over else self._equity
        ruined = after <= 0
        if ruined or over:
            self.close()
        reward = rl.RUIN if ruined else math.log(after / before)
        return self._observed(), reward, ruined, over and not ruined, self._info(asked, after)

    def close(self) -> None:
        """End the replay where it is."""
        if self._running is not None:
            self._running.close()
        self._running = self.question = None

    def _drawn(self) -> datetime:
        if not self.days:
            return self.start
        room = (self.end - self.start - self.days).total_seconds()
        if room < 0:
            raise InputError(f"days={self.days / timedelta(days=1):g}: the candles are from {self.start} to {self.end}")
        least = min(WARM_UP.total_seconds(), room)
        return self.start + timedelta(seconds=round(self.np_random.uniform(least, room)))

    def _begin(self, start: datetime) -> bool:
        """Start a replay and go to its first question, and say whether there is one."""
        self.close()
        end = min(self.end, start + self.days) if self.days else self.end
        world = World(start, end, self.world.latency_s, self.world.calendar, self.world.funding)
        self.replay = Backtest(
            {self.symbol: self.market}, _Asked(), self.strategy, world, on_record=self._take, is_capped=lambda: False
        )
        self._running, self._recorded = self.replay.run(), None
        return self._sent(None)

    def _sent(self, answers: list[Answer] | None) -> bool:
        """Go on to the next question, and say whether there is one."""
        assert self._running is not None
        threshold = gc.get_threshold()  # a replay raises it until it ends, and several may be open side by side
        try:
            handed = self._running.send(answers)
            while handed is None:  # the replay gave other coroutines a turn
                handed = self._running.send(None)
        except StopIteration:
            return False
        finally:
            gc.set_threshold(*threshold)
        [self.question] = handed
        self._seen: ndarray = rl.policy_input(*rl.state(self.question.snapshot))[0]
        self._equity = float(self.question.equity or 0.0)
        return True

    def _take(self, record: CycleRecord) -> None:
        self._recorded = record

    def _observed(self) -> ndarray:
        return np.array(self._seen)

    def _info(self, asked: Decision | None = None, equity: float | None = None) -> Json:
        """Return what is allowed now and, after a step, what became of the action that was asked for."""
        snapshot = self.question and self.question.snapshot
        allowed = rl.allowed_mask(snapshot) if snapshot else [action == "HOLD" for action in rl.CHOICES]
        info: Json = {
            "action_mask": np.array(allowed, dtype=np.int8),
            "as_of": snapshot.as_of.isoformat() if snapshot else "",
            "equity": self._equity if equity is None else equity,
        }
        if asked is None:
            return info
        waiting = self.replay.unfinished
        record = waiting[-1].record if waiting else self._recorded
        assert record is not None
        assert record.verdict is not None
        carried = record.verdict.allowed and record.status in (CycleStatus.EXECUTED, CycleStatus.HELD)
        codes: Texts = tuple(code.value for code in record.verdict.codes)
        done = record.verdict.decision.action if carried else "HOLD"
        return info | {"asked": asked.action, "carried": done, "codes": codes, "status": record.status.value}
