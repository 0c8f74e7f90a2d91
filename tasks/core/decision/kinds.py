"""What deciders there are: one line for each kind, read by whoever builds, replays, compares or pays for them.

Cheap to import, so that a command may ask before it loads anything: what makes a decider is imported when it is made.
A name is a kind, and what it takes: `rules:stop_atr=3`, `llm:panel@risk/v002+trend/v003`, `ensemble:A+B`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from tasks.core.decision.decider import AskingDecider
    from tasks.core.decision.llm.prompt import Prompt
    from tasks.core.decision.llm.tools import ToolDesk
    from tasks.core.ports import Model
    from tasks.core.types import PanelTerms, Question


async def _nothing() -> None: ...


@dataclass(frozen=True)
class Means:
    """What deciders work with besides a model and prompts. `prepare` runs before any deadline starts."""

    deadline_s: float = 60
    prepare: Callable[[], Awaitable[None]] = _nothing
    tools: "Callable[[Question], ToolDesk] | None" = None  # of a kind that looks up
    panel: "PanelTerms | None" = None  # the strategy's; None: the defaults
    literal: bool = False  # replies are read as before rules 5: nothing but what stands there, and no echo is known


class Kind(NamedTuple):
    """What is true of every decider of one kind."""

    roles: tuple[str, ...] = ()  # whose prompts it may send; none: it asks no model
    maker: str = ""  # of those that ask a model, ensembles aside: module and class
    together: bool = False  # takes the questions about all symbols at once
    looks_up: bool = False  # asks tools for data: the venue and the store, in a replay what that knows
    staged: bool = False  # asks in stages, each with a deadline of its own
    argument: str = ""  # how what it takes is written
    file: bool = False  # that is a file, without which it is none
    sees_market: bool = True  # what it decides follows from what it is shown
    by_time: bool = False  # finds its answers by symbol and time
    benchmark: bool = False  # a replay, and nothing else, carries it out without the guard
    odds: Literal["", "certain", "random", "votes"] = ""  # how one knows how likely its choice was

    @property
    def asking(self) -> "type[AskingDecider]":
        """Return the class of a kind that asks a model by itself."""
        made: type[AskingDecider] = resolve_name(f"tasks.core.decision.llm.{self.maker}")
        return made

    def make(self, model: "Model", prompts: "Mapping[str, Prompt]", means: Means) -> "AskingDecider":
        """Make a decider that asks `model`."""
        return self.asking(model, prompts, means)

    @property
    def asks_model(self) -> bool:
        """Return whether deciding costs money."""
        return bool(self.roles)

    @property
    def asks_alone(self) -> bool:
        """Return whether it asks a model by itself, and is no ensemble of some that may."""
        return bool(self.maker)


KINDS = {
    "rules": Kind(argument="stop_atr=3", odds="certain"),
    "hold": Kind(sees_market=False, odds="certain"),
    "random": Kind(argument="SEED", sees_market=False, odds="random"),
    "buy-and-hold": Kind(sees_market=False, benchmark=True, odds="certain"),
    "recorded": Kind(argument="FILE", file=True, sees_market=False, by_time=True),
    "model": Kind(argument="FILE.onnx", file=True, odds="certain"),
    "llm:single": Kind(("single",), "single:SingleDecider"),
    "llm:panel": Kind(
        ("technical", "orderbook", "sentiment", "trend", "reversion", "risk"),
        "panel:PanelDecider",
        staged=True,
        odds="votes",
    ),
    "llm:tools": Kind(("planner", "decision", "single"), "planner:ToolsDecider", looks_up=True),
    "llm:portfolio": Kind(("portfolio",), "portfolio:PortfolioDecider", together=True),
}


def asking(role: str) -> "type[AskingDecider]":
    """Return who sends the prompts of this role; raises InputError naming the roles there are."""
    found = next((kind for kind in KINDS.values() if role in kind.roles), None)
    if found is None:
        roles = dict.fromkeys(role for kind in KINDS.values() for role in kind.roles)
        raise InputError(f"role {role!r} is unknown; there are {', '.join(roles)}")
    return found.asking


class Named(NamedTuple):
    """A decider's name, taken apart."""

    kind: str
    argument: str = ""
    versions: str = ""  # of its prompts


def read(name: str) -> Named:
    """Take a name apart; one of no kind is its own."""
    plain, _, versions = name.partition("@") if name.startswith("llm:") else (name, "", "")
    kind, _, argument = plain.partition(":")
    if kind in KINDS and KINDS[kind].argument:
        return Named(kind, argument)
    return Named(plain, versions=versions)


def members(name: str) -> tuple[tuple[str, str | None], ...]:
    """Return the deciders of an ensemble and what each one's vote weighs, None where nobody votes."""
    kind, _, text = name.partition(":")
    if kind != "ensemble" or not text:
        return ()
    if text.startswith("vote:"):
        votes = (vote.rpartition("=") for vote in text.removeprefix("vote:").split(","))
        return tuple((member, weight) for member, _, weight in votes)
    if text.startswith("pick:"):
        return tuple((member, None) for member in text.removeprefix("pick:").split(","))
    chooser, _, timer = text.rpartition("+")
    return ((chooser, None), (timer, None))


def kind_of(name: str) -> Kind:
    """Return what a decider so named is; one that nobody knows asks no model."""
    parts = [kind_of(member) for member, _ in members(name)]
    return joined(parts) if parts else KINDS.get(read(name).kind, Kind())


def askers(name: str) -> list[str]:
    """Return those that ask a model: of an ensemble its members, else the decider itself."""
    return [each for each in [member for member, _ in members(name)] or [name] if kind_of(each).asks_model]


def joined(kinds: Iterable[Kind]) -> Kind:
    """Return what an ensemble of such deciders is."""
    each = list(kinds)
    flags: dict[str, Any] = {
        flag: any(getattr(kind, flag) for kind in each) for flag in ("together", "looks_up", "sees_market", "by_time")
    }
    return Kind(roles=tuple(role for kind in each for role in kind.roles), **flags)
