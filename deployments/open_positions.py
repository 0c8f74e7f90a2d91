"""What stands open keeps its strategy: no settings may take a symbol from the one that has something in it."""

from contextlib import closing

from tasks.adapters.store import exists
from tasks.adapters.store.store import Store
from tasks.core.types import InputError
from tasks.settings import Settings


def left_over(settings: Settings) -> list[str]:
    """Say what is open or rests of strategies that the settings do not name, or in symbols they give to others."""
    if not exists(settings.store_url):
        return []
    said = []
    with closing(Store(settings.store_url)) as store:
        whose = {symbol: each.strategy for each in settings.every() for symbol in each.symbols}
        names = {each.strategy for each in settings.every()}
        for name in sorted({*store.positions.strategies(), *store.intents.strategies()}):
            held = {p.symbol: "an open position" for p in store.positions.open(name)}
            held = {own.intent.symbol: "a resting order" for own in store.intents.open(name)} | held
            for symbol, what in held.items():
                if name not in names or whose.get(symbol, name) != name:
                    said.append(
                        f"strategy {name} has {what} in {symbol}: put its table and symbol back, and take them away "
                        f"once it is closed, as by `quarterdeck close {symbol}`"
                    )
    return said


def refuse(settings: Settings) -> None:
    """Raise InputError where something would be left over."""
    if said := left_over(settings):
        raise InputError("; ".join(said))
