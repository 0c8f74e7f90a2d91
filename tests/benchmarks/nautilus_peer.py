"""The SMA 50/200 cross of the other peers in nautilus_trader 2, which has an environment of its own: not in the lock.

`python nautilus_peer.py FILE.parquet` reads columns ts (open time, UTC ms), open, high, low, close, volume and prints
the CPU seconds of making the bars and of the run, then the number of orders.
"""

import sys
import time

import pandas as pd
from nautilus_trader.backtest import BacktestEngine, BacktestEngineConfig
from nautilus_trader.execution import MakerTakerFeeModel
from nautilus_trader.indicators import AverageTrueRange, SimpleMovingAverage
from nautilus_trader.model import (
    AccountType,
    Bar,
    BarType,
    CryptoPerpetual,
    Currency,
    InstrumentId,
    Money,
    OmsType,
    OrderSide,
    OrderType,
    Price,
    Quantity,
    Symbol,
)
from nautilus_trader.trading import Strategy, StrategyConfig

INSTRUMENT = InstrumentId.from_str("BTCUSDT-PERP.SIM")
BAR_TYPE = BarType.from_str(f"{INSTRUMENT}-5-MINUTE-LAST-EXTERNAL")
USDT = Currency.from_str("USDT")
COLUMNS = ("open", "high", "low", "close", "volume")


class SmaCross(Strategy):
    """Long above, short below, out at the stop or target."""

    def on_start(self) -> None:
        self.fast, self.slow, self.atr = SimpleMovingAverage(50), SimpleMovingAverage(200), AverageTrueRange(14)
        for indicator in (self.fast, self.slow, self.atr):
            self.register_indicator_for_bars(BAR_TYPE, indicator)
        self.above = None
        self.subscribe_bars(BAR_TYPE)

    def on_bar(self, bar: Bar) -> None:
        if not self.slow.initialized:
            return
        before, self.above = self.above, self.fast.value > self.slow.value
        if before in {None, self.above} or not self.portfolio.is_completely_net_flat():
            return
        close, distance, sign = bar.close.as_double(), self.atr.value, 1 if self.above else -1
        self.submit_order_list(self.order_factory.bracket(
            instrument_id=INSTRUMENT, order_side=OrderSide.BUY if self.above else OrderSide.SELL,
            quantity=Quantity(5, 3),
            sl_trigger_price=Price(close - sign * 1.5 * distance, 1), tp_order_type=OrderType.LIMIT,
            tp_price=Price(close + sign * 3 * distance, 1),
        ))  # fmt: skip


def perpetual() -> CryptoPerpetual:
    return CryptoPerpetual(
        INSTRUMENT, Symbol("BTCUSDT"), Currency.from_str("BTC"), USDT, USDT, is_inverse=False,
        price_precision=1, size_precision=3, price_increment=Price(0.1, 1), size_increment=Quantity(0.001, 3),
        ts_event=0, ts_init=0,
    )  # fmt: skip


def main(path: str) -> None:
    """Print the CPU seconds of making the bars and of running them, and how many orders came of it."""
    frame, start = pd.read_parquet(path), time.process_time()
    closed = (frame["ts"].to_numpy() + 300_000) * 1_000_000
    rows = zip(*(frame[name].tolist() for name in COLUMNS), closed.tolist(), strict=True)
    bars = [Bar(BAR_TYPE, *(Price(x, 1) for x in prices), Quantity(volume, 3), at, at) for *prices, volume, at in rows]
    made = time.process_time()
    engine = BacktestEngine(BacktestEngineConfig(bypass_logging=True, run_analysis=False))
    engine.add_venue(
        INSTRUMENT.venue,
        OmsType.NETTING,
        AccountType.MARGIN,
        [Money(1_000_000, USDT)],
        fee_model=MakerTakerFeeModel("0.0002", "0.00055"),
    )
    engine.add_instrument(perpetual())
    engine.add_data(bars)
    engine.add_strategy(SmaCross(StrategyConfig()))
    engine.run()
    print(f"bars_s={made - start:.2f} run_s={time.process_time() - made:.2f} orders={engine.get_result().total_orders}")


if __name__ == "__main__":
    main(sys.argv[1])
