"""The strategies that share the account: whose a symbol is, and which of them are to be looked after."""

from collections.abc import Iterable, Iterator

from tasks.connections import store
from tasks.core.types import VenuePosition
from tasks.settings import Settings, settings


def at_work() -> tuple[Settings, ...]:
    """Return the settings of every strategy, the top level's first.

    One without a table any more that has something open is among them until it has not: it trades nothing new.
    """
    every, kept = settings.account.every(), store()
    left = {*kept.positions.strategies(), *kept.intents.strategies()} - {each.strategy for each in every}
    return *every, *(settings.account.replace(strategy=name, symbols=()) for name in sorted(left))


def each_in_turn() -> Iterator[Settings]:
    """Go through the strategies that the settings name; what is done meanwhile is that one's."""
    for each in settings.account.every():
        with settings.of(each):
            yield each


def named(strategy: str) -> Settings:
    """Return a strategy's settings; the top level's, under its name, for one that there is no more."""
    every = settings.account.every()
    return next((each for each in every if each.strategy == strategy), every[0].replace(strategy=strategy))


def owner(symbol: str) -> Settings:
    """Return whose a symbol is: who has something open in it, else who trades it, else the top level's."""
    every, kept = at_work(), store()
    for each in every if len(every) > 1 else ():
        resting = (own.intent.symbol for own in kept.intents.open(each.strategy))
        if symbol in resting or kept.positions.open(each.strategy, symbol):
            return each
    return next((each for each in every if symbol in each.symbols), every[0])


def mine(at_venue: Iterable[VenuePosition]) -> list[VenuePosition]:
    """Return what the venue holds in symbols of the strategy at work, and for the top level what is nobody's."""
    return [position for position in at_venue if owner(position.symbol).strategy == settings().strategy]
