"""Environment and quarterdeck.toml -> one frozen Settings.

Order: environment (`QUARTERDECK_*`, nested with two underscores) over `quarterdeck.toml` over the defaults here.
Providers' keys and the venue's keys are not settings: adapters read them from the environment when they connect,
so that no secret can end up in a task argument or a record.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from tasks.core.types import (
    ApprovalPolicy,
    Budget,
    Costs,
    EventThresholds,
    Exact,
    InputError,
    Limits,
    PanelTerms,
    Positive,
    Probability,
    Promotion,
    Share,
    Strategy,
    Texts,
    ToolRates,
)
from tasks.redaction import redacted, remember, secrets_of

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "QUARTERDECK_"
MOST_VOTES = 20  # about one question
DATABASES = {"quarterdeck": "quarterdeck.db", "prefect": "prefect/prefect.db", "mlflow": "mlflow.db"}  # in HOME
CLUSTER, INSIDE = "postgresql", "databases"  # a folder in HOME and, in it, the names of what is kept there
SOCKET_BYTES = 90  # of a folder that a socket's address, 107 bytes, has room for
HIDDEN = re.compile("_URLS?|_FEEDS|KEY|SECRET|TOKEN|PASSWORD")  # settings whose value no error shows
# what servers, workers and venues were started or are connected with
FIXED = frozenset({
    "profile", "strategy", "home", "database_url", "venue", "sandbox_url", "venue_url", "venue_host", "venue_demo",
    "paper_cash", "live_account", "prefect_api_url", "prefect_ui_url", "mlflow_url", "mlflow_ui_url",
    "prefect_database_url", "mlflow_database_url", "workers", "alert_urls", "close_offset_s", "watch_every_s",
})  # fmt: skip
# what one account has once, and no table of a strategy of its own
SHARED = FIXED | {"strategies", "stop_within_s", "patience_s", "retention_days"}
SHARED_LIMITS = frozenset({"max_total_risk_pct", "max_gross_pct", "max_net_pct", "max_positions"})
NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"

Profile = Literal["sandbox", "paper", "testnet", "live"]
Names = Annotated[Texts, NoDecode]
Symbol = Annotated[str, Field(pattern=r"^[\w.$-]{1,24}/[\w.$-]{1,24}(:[\w.$-]{1,40})?$")]  # ccxt's: BTC/USDT:USDT
Symbols = Annotated[tuple[Symbol, ...], NoDecode, AfterValidator(lambda named: tuple(dict.fromkeys(named)))]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode]


def _number(value: object) -> object:
    """Return the number that a text of the environment is; a Literal takes no text for one."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


class _ExactToml(TomlConfigSettingsSource):
    """A TOML file whose numbers are what stands there: 0.3 is no money, Decimal("0.3") is."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding="utf-8-sig"), parse_float=Decimal)  # Windows may mark it


class Settings(BaseSettings):
    """Everything a run may be configured with; `quarterdeck doctor` prints what is in force."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    profile: Profile = "sandbox"
    symbols: Symbols = ("BTC/USDT:USDT", "ETH/USDT:USDT")
    strategy: str = Field("default", pattern=NAME)
    decider: str = ""
    """empty: llm:single if a model is set, else rules"""
    database_url: str = ""
    """empty: in HOME, PostgreSQL or SQLite (docs/architecture.md)"""
    home: Path = ROOT / ".quarterdeck"
    model: Names = ()
    """litellm names in failover order; empty: rules"""
    model_base_url: str = ""
    """an OpenAI-compatible server for all of them"""
    reasoning_effort: str = Field("", pattern="^(none|minimal|low|medium|high)?$")
    """of models that reason; empty: theirs"""
    reasoning_tokens: NonNegativeInt = 4000
    """such models' own, beside the prompt's max_tokens"""
    venue: str = "bybit"
    """ccxt id, for paper, testnet and live"""
    sandbox_url: str = "http://127.0.0.1:8891"
    venue_url: str = ""
    """paper only: a server on this machine to read market data from"""
    venue_host: str = ""
    """of the region an account is of, such as bybit.eu; empty: the venue's own"""
    venue_demo: bool = True
    """testnet: the venue's demo trading; false: its testnet"""
    capital_pct: Exact | None = Field(None, gt=0, le=100)
    """share of the account's equity that the strategy sizes on, in percent; not set: all of it"""
    paper_cash: Positive = Decimal(10_000)
    """what a paper account begins with, in quote"""
    prefect_api_url: str = "http://127.0.0.1:4210/api"
    prefect_ui_url: str = ""
    """where browsers find Prefect, for links; empty: as we do"""
    mlflow_url: str = "http://127.0.0.1:5510"
    """empty: no tracking"""
    mlflow_ui_url: str = ""
    """where browsers find MLflow, for links; empty: as we do"""
    prefect_database_url: str = ""
    """of the Prefect server `up` starts; empty: in HOME"""
    mlflow_database_url: str = ""
    """of the MLflow server `up` starts; empty: in HOME"""
    workers: int = Field(1, ge=1, le=64)
    """how many `up` and `worker` start on this machine"""
    alert_urls: Secrets = ()
    """Apprise URLs such as discord://...: where alerts are sent"""
    close_offset_s: int = Field(5, ge=1, le=60)
    """from a bar's close to the runs about it"""
    watch_every_s: Annotated[Literal[60, 300], BeforeValidator(_number)] = 60
    """watch and protect; 300 where runs start cold"""
    live_account: str = ""
    """live only: the account id typed out, which arms it"""
    stop_within_s: PositiveFloat = 10
    """to set a stop that an entry does not take with it"""
    patience_s: NonNegativeFloat = 90
    """for fills, orders and positions that the venue tells late"""
    retention_days: NonNegativeInt = 365
    """then bulk that explains no order goes; 0: never"""
    history_bars: int = Field(1000, ge=300, le=5000)
    """bars per timeframe the features see"""
    calendar: Path | None = None
    """an .ics or .csv of events to be asked about"""
    decision_latency_s: float = Field(0, ge=0, lt=300)
    """replays: from close to order"""
    sample_quiet: float = Field(0, ge=0, le=1)
    """share of quiet bars asked about all the same"""
    approve: ApprovalPolicy = "never"
    """what a person is asked about before it is sent: entries, all or never"""
    shadow: Names = ()
    """challengers: deciders asked beside, whose answers are not sent"""
    shadow_budget: Budget = Budget(purse="shadow")
    """what challengers may cost, apart"""
    votes: int = Field(1, ge=1, le=MOST_VOTES)
    """how often a model is asked about one question, so that it is known how likely its answer was; by SHADOW_BUDGET"""
    provider_timeout_s: PositiveFloat = 30
    decision_deadline_s: PositiveFloat = 60
    panel_stage_s: PositiveFloat = 10
    """each of the panel's three stages"""
    panel_consensus: Share = Decimal("0.67")
    """share of the analysts asked that must agree: two of three, and both of two"""
    panel_min_confidence: Probability = Decimal("0.5")
    """of those who agree, on average"""
    news_feeds: Names = ()
    """RSS or Atom URLs, for the sentiment analyst"""
    fear_greed_url: str = ""
    """an index in alternative.me's JSON; empty: none"""
    max_reply_bytes: int = Field(200_000, ge=1000)
    tool_rounds: int = Field(3, ge=1, le=10)
    """how often a planner may ask for data"""
    tool_calls: int = Field(6, ge=0, le=50)
    """tool calls per decision"""
    tool_bytes: int = Field(4000, ge=200)
    """of one tool's answer"""
    tool_rates: ToolRates = ToolRates()
    cheap_model: Names = ()
    """asked when the budget is too tight for MODEL"""
    budget: Budget = Budget()
    cache_ttl_s: NonNegativeFloat = 3600
    """how old a reply or decision may be that answers again"""
    cache_distance: NonNegativeFloat = 0.15
    """of an earlier moment in feature space (0 to 2)"""
    breaker_errors: int = Field(5, ge=1)
    """errors in a row after which no model is asked"""
    breaker_cooldown_s: PositiveFloat = 900
    limits: Limits = Limits()
    costs: Costs = Costs()
    events: EventThresholds = EventThresholds()
    promotion: Promotion = Promotion()
    strategies: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = {}
    """further strategies on the account, a table each: `[strategies.NAME]`"""
    scorer: str = Field(
        "", description="a score of your own for each moment: module:function of inputs, outputs, expectations"
    )

    @field_validator("symbols", "model", "shadow", "news_feeds", "cheap_model", "alert_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # of the sources we read
        cls, settings_cls: type[BaseSettings], init_settings: Any, env_settings: Any, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = Path(os.environ.get("QUARTERDECK_TOML", "quarterdeck.toml"))
        return init_settings, env_settings, _ExactToml(settings_cls, toml)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these changes, unvalidated."""
        return self.model_copy(update=changes)

    def every(self) -> tuple["Settings", ...]:
        """Return the settings of each strategy on the account, the top level's first; raises InputError.

        A table holds what it says and else what the top level has. What its models may cost is a budget of its own.
        """
        return self, *(_of_table(self, name, own) for name, own in self.strategies.items())

    @property
    def all_symbols(self) -> tuple[str, ...]:
        return tuple(symbol for each in self.every() for symbol in each.symbols)

    @property
    def decider_name(self) -> str:
        return self.decider or ("llm:single" if self.model else "rules")

    @property
    def panel(self) -> PanelTerms:
        return PanelTerms(
            consensus=self.panel_consensus, min_confidence=self.panel_min_confidence, stage_s=self.panel_stage_s
        )

    @property
    def database_urls(self) -> dict[str, str]:
        """Return what is set for each database; empty: it is in HOME."""
        return dict(
            zip(DATABASES, (self.database_url, self.prefect_database_url, self.mlflow_database_url), strict=True)
        )

    @property
    def databases(self) -> dict[str, str]:
        """Return where each database lives: ours, and those of the servers that `up` starts."""
        urls = self.database_urls
        inside = () if all(urls.values()) else in_cluster(self.home)
        return {
            name: url or (in_cluster_url(self.home, name) if name in inside else f"sqlite:///{self.home / file}")
            for (name, file), url in zip(DATABASES.items(), urls.values(), strict=True)
        }

    @property
    def store_url(self) -> str:
        return self.databases["quarterdeck"]


def in_cluster(home: Path) -> list[str]:
    """Return which databases are kept in HOME's PostgreSQL, for good; none where there is none.

    Raises InputError for one that does not say: nothing may be begun anew beside it.
    """
    note = home / CLUSTER / INSIDE
    if not note.parent.exists():
        return []
    try:
        names = note.read_text().split()
    except OSError as e:
        raise InputError(f"{note}: {e.strerror}; restore a backup into an empty QUARTERDECK_HOME") from e
    if not names:
        raise InputError(f"{note} is empty: restore a backup into an empty QUARTERDECK_HOME")
    return names


def sockets(home: Path) -> Path:
    """Return the folder of the socket of HOME's PostgreSQL; where its path is too long, a short name of it."""
    folder = home / CLUSTER
    if len(os.fsencode(folder)) <= SOCKET_BYTES:
        return folder
    short = Path("/tmp", f"quarterdeck-{os.getuid()}-{sha256(os.fsencode(folder)).hexdigest()[:16]}")  # noqa: S108
    try:
        short.symlink_to(folder)
    except FileExistsError:
        if short.lstat().st_uid != os.getuid() or not short.is_symlink() or short.readlink() != folder:
            raise InputError(
                f"{short} is not ours: remove it, or take a QUARTERDECK_HOME with a shorter path"
            ) from None
    return short


def in_cluster_url(home: Path, database: str) -> str:
    """Return the URL of a database in HOME's PostgreSQL."""
    return f"postgresql://quarterdeck@/{database}?host={quote(str(sockets(home)))}"


def strategy_of(s: Settings, decider: str, **more: Any) -> Strategy:
    """Return what the settings make of a strategy; given: its symbols, instruments, venue and whatever else differs."""
    return Strategy(
        name=s.strategy, decider=decider, models=s.model, capital=s.paper_cash, limits=s.limits, costs=s.costs,
        thresholds=s.events, panel=s.panel, **more,
    )  # fmt: skip


class _Table(Settings):
    """One strategy's settings, of nothing but what they are made of."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # as above
        cls, _: type[BaseSettings], init_settings: Any, *__: Any, **___: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _of_table(top: Settings, name: str, own: dict[str, Any]) -> Settings:
    where, limits = f"[strategies.{name}]", own.get("limits")
    shared = [*SHARED & own.keys(), *(f"limits.{n}" for n in SHARED_LIMITS & {*(limits or ())})]
    if shared:
        raise InputError(f"{where} {min(shared)}: the account has one; write it at the top of quarterdeck.toml")
    if name == top.strategy:
        raise InputError(f"{where}: {name} is what the top level is called; give the table another name")
    if "symbols" not in own:
        raise InputError(f"{where} symbols: there are none; name those that are this strategy's alone")
    try:
        table = _Table(**_over(own, top.model_dump(exclude_unset=True, exclude={"strategies"})) | {"strategy": name})
    except ValidationError as e:
        raise InputError(_wrong(e, f"{where} ")) from None  # a traceback would show the value
    purses = {"budget": name, "shadow_budget": f"{name}/shadow"}
    return table.replace(**{
        budget: getattr(table, budget).replace(purse=own.get(budget, {}).get("purse") or purse)
        for budget, purse in purses.items()
    })  # fmt: skip


def _over(own: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return what a table makes of the top level's values."""
    both = {key for key in own if isinstance(own[key], dict) and isinstance(top.get(key), dict)}
    return top | own | {key: _over(own[key], top[key]) for key in both}


def _check_apart(read: Settings) -> None:
    """Raise InputError, with the line to change, where two strategies have one symbol: it has one position."""
    whose: dict[str, Settings] = {}
    for each in read.every():
        for symbol in each.symbols:
            if (other := whose.setdefault(symbol, each)) is not each:
                left = ", ".join(f'"{name}"' for name in other.symbols if name != symbol)
                top = "at the top of quarterdeck.toml" if other is read else f"under [strategies.{other.strategy}]"
                there = f"write symbols = [{left}] {top}" if left else f"name another {top}"
                raise InputError(
                    f"[strategies.{each.strategy}] symbols: {symbol} is {other.strategy}'s, and a symbol has one "
                    f"strategy; take it out here, or {there}"
                )


def _check_shares(read: Settings) -> None:
    """Raise InputError where the strategies are given more than all of the account."""
    shares = {each.strategy: each.capital_pct for each in read.every() if each.capital_pct is not None}
    if (total := sum(shares.values())) > 100:
        listed = ", ".join(f"{name} {share} %" for name, share in shares.items())
        raise InputError(
            f"capital_pct: {listed} make {total} % of the account, and 100 % is all; write less for one of them (a "
            "table without a line of its own has the top level's)"
        )


def load(**overrides: object) -> Settings:
    """Read the settings once more; raises InputError naming the first wrong value and what would be right."""
    try:
        read = Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates the overrides
    except ValidationError as e:
        raise InputError(_wrong(e)) from None  # a traceback would show the value
    except SettingsError as e:
        raise InputError(f"{' or '.join(_not_json(str(e)))}: must be JSON, as docs/configuration.md shows it") from None
    except ValueError as e:
        raise InputError(f"quarterdeck.toml cannot be read: {redacted(str(e))}") from None
    for each in read.every():
        _remember_secrets(each)
    _check_apart(read)
    _check_shares(read)
    return read


def _not_json(said: str) -> list[str]:
    """Return the variables of the field that pydantic names, `field "limits"`, that are no JSON, and what they hold."""
    field = PREFIX + said.partition('"')[2].partition('"')[0].upper()
    of_field = (name for name in sorted(os.environ) if name.upper().startswith(field))
    return [_shown(name, os.environ[name]) for name in of_field if not _is_json(os.environ[name])]


def _shown(name: str, text: str) -> str:
    return name if HIDDEN.search(name.upper()) else f"{name}={redacted(repr(text))[:80]}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _wrong(e: ValidationError, table: str = "") -> str:
    """Say of the first wrong value what it is; table: whose it is, empty: the top level's."""
    first = e.errors()[0]
    parts = [str(part) for part in first["loc"]]
    name = table + ".".join(parts) if table else PREFIX + "__".join(parts).upper()
    # a setting there is not may be a secret in the wrong place
    hidden = first["type"] == "extra_forbidden" or HIDDEN.search(name.upper())
    value = "" if hidden else f"={redacted(repr(first['input']))}"
    return f"{name}{value}: {first['msg']}"


def _remember_secrets(read: Settings) -> None:
    """Know the settings' secrets by value: alert addresses, with the tokens in them, and what is secret in any URL."""
    for value in vars(read).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, SecretStr):
                url = one.get_secret_value()
                remember([url, *(part for part in re.split("[/:@?&=]+", url) if len(part) > 8 and "." not in part)])
            elif isinstance(one, str):
                remember(secrets_of(one))


class _InForce:
    """Called, the settings of the strategy that a run is about; of the top level's where it says no other."""

    def __init__(self) -> None:
        self._chosen: ContextVar[Settings | None] = ContextVar("strategy", default=None)

    def __reduce__(self) -> str:
        """Be sent to another process by name: it has settings of its own."""
        return "settings"

    def __call__(self) -> Settings:
        return self._chosen.get() or self.account

    @cached_property
    def account(self) -> Settings:
        """Return the process's settings, the top level's, read once."""
        return load()

    def cache_clear(self) -> None:
        """Read the settings anew when they are asked for."""
        self.__dict__.pop("account", None)

    def named(self, strategy: str | None) -> Settings:
        """Return the settings of one strategy, empty: the top level's; raises InputError listing those there are."""
        every = self.account.every() if strategy else (self.account,)
        for each in every:
            if strategy in (each.strategy, "", None):
                return each
        raise InputError(f"strategy {strategy!r}: there are {', '.join(each.strategy for each in every)}")

    @contextmanager
    def of(self, chosen: Settings) -> Iterator[Settings]:
        """Let what is done inside be one strategy's."""
        before = self._chosen.set(chosen)
        try:
            yield chosen
        finally:
            self._chosen.reset(before)


settings = _InForce()
