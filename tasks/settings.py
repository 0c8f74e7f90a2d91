"""Environment and quarterdeck.toml -> one frozen Settings.

Order: environment (`QUARTERDECK_*`, nested with two underscores) over `quarterdeck.toml` over the defaults here.
Providers' keys and the venue's keys are not settings: adapters read them from the environment when they connect,
so that no secret can end up in a task argument or a record.
"""

import os
import re
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tasks.core.errors import InputError
from tasks.core.types import (
    Budget,
    Costs,
    EventThresholds,
    Exact,
    Limits,
    PanelTerms,
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
DATABASES = {"quarterdeck": "quarterdeck.db", "prefect": "prefect/prefect.db", "mlflow": "mlflow.db"}  # in HOME
HIDDEN = re.compile("_URLS?|_FEEDS|KEY|SECRET|TOKEN|PASSWORD")  # settings whose value no error shows
Profile = Literal["sandbox", "paper", "testnet", "live"]
Names = Annotated[Texts, NoDecode]
Symbol = Annotated[str, Field(pattern=r"^[\w.$-]{1,24}/[\w.$-]{1,24}(:[\w.$-]{1,40})?$")]  # ccxt's: BTC/USDT:USDT
Symbols = Annotated[tuple[Symbol, ...], NoDecode]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode]


class Settings(BaseSettings):
    """Everything a run may be configured with; `quarterdeck doctor` prints what is in force."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    profile: Profile = "sandbox"
    symbols: Symbols = ("BTC/USDT:USDT", "ETH/USDT:USDT")
    strategy: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    decider: str = Field("", description="empty: llm:single if a model is set, else rules")
    database_url: str = Field("", description="empty: SQLite in HOME")
    home: Path = ROOT / ".quarterdeck"
    model: Names = Field((), description="litellm names in failover order; empty: rules")
    model_base_url: str = Field("", description="an OpenAI-compatible server for all of them")
    reasoning_effort: str = Field(
        "", pattern="^(none|minimal|low|medium|high)?$", description="of models that reason; empty: theirs"
    )
    reasoning_tokens: NonNegativeInt = Field(4000, description="such models' own, beside the prompt's max_tokens")
    venue: str = Field("bybit", description="ccxt id, for paper, testnet and live")
    sandbox_url: str = "http://127.0.0.1:8891"
    venue_url: str = Field("", description="paper only: a server on this machine to read market data from")
    venue_host: str = Field("", description="of the region an account is of, such as bybit.eu; empty: the venue's own")
    venue_demo: bool = Field(True, description="testnet: the venue's demo trading; false: its testnet")
    paper_cash: Exact = Field(Decimal(10_000), gt=0, description="what a paper account begins with, in quote")
    prefect_api_url: str = "http://127.0.0.1:4210/api"
    mlflow_url: str = Field("http://127.0.0.1:5510", description="empty: no tracking")
    prefect_database_url: str = Field("", description="of the Prefect server `up` starts; empty: SQLite in HOME")
    mlflow_database_url: str = Field("", description="of the MLflow server `up` starts; empty: SQLite in HOME")
    workers: int = Field(1, ge=1, le=64, description="how many `up` and `worker` start on this machine")
    alert_urls: Secrets = Field((), description="Apprise URLs such as discord://...: where alerts are sent")
    close_offset_s: int = Field(5, ge=1, le=60, description="from a bar's close to the runs about it")
    watch_every_s: Literal[60, 300] = Field(60, description="watch and protect; 300 where runs start cold")
    live_account: str = Field("", description="live only: the account id typed out, which arms it")
    stop_within_s: PositiveFloat = Field(10, description="to set a stop that an entry does not take with it")
    patience_s: NonNegativeFloat = Field(90, description="for fills, orders and positions that the venue tells late")
    retention_days: NonNegativeInt = Field(365, description="then bulk that explains no order goes; 0: never")
    history_bars: int = Field(1000, ge=300, le=5000, description="bars per timeframe the features see")
    calendar: Path | None = Field(None, description="an .ics or .csv of events to be asked about")
    decision_latency_s: float = Field(0, ge=0, lt=300, description="replays: from close to order")
    sample_quiet: float = Field(0, ge=0, le=1, description="share of quiet bars asked about all the same")
    shadow: Names = Field((), description="challengers: deciders asked beside, whose answers are not sent")
    shadow_budget: Budget = Field(Budget(purse="shadow"), description="what challengers may cost, apart")
    provider_timeout_s: PositiveFloat = 30
    decision_deadline_s: PositiveFloat = 60
    panel_stage_s: PositiveFloat = Field(10, description="each of the panel's three stages")
    panel_consensus: Share = Field(
        Decimal("0.67"), description="share of the analysts asked that must agree: two of three, and both of two"
    )
    panel_min_confidence: Probability = Field(Decimal("0.5"), description="of those who agree, on average")
    news_feeds: Names = Field((), description="RSS or Atom URLs, for the sentiment analyst")
    fear_greed_url: str = Field("", description="an index in alternative.me's JSON; empty: none")
    max_reply_bytes: int = Field(200_000, ge=1000)
    tool_rounds: int = Field(3, ge=1, le=10, description="how often a planner may ask for data")
    tool_calls: int = Field(6, ge=0, le=50, description="tool calls per decision")
    tool_bytes: int = Field(4000, ge=200, description="of one tool's answer")
    tool_rates: ToolRates = ToolRates()
    cheap_model: Names = Field((), description="asked when the budget is too tight for MODEL")
    budget: Budget = Budget()
    cache_ttl_s: NonNegativeFloat = Field(3600, description="how old a reply or decision may be that answers again")
    cache_distance: NonNegativeFloat = Field(0.15, description="of an earlier moment in feature space (0 to 2)")
    breaker_errors: int = Field(5, ge=1, description="errors in a row after which no model is asked")
    breaker_cooldown_s: PositiveFloat = 900
    limits: Limits = Limits()
    costs: Costs = Costs()
    events: EventThresholds = EventThresholds()
    promotion: Promotion = Promotion()

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
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these changes, unvalidated."""
        return self.model_copy(update=changes)

    @property
    def decider_name(self) -> str:
        return self.decider or ("llm:single" if self.model else "rules")

    @property
    def panel(self) -> PanelTerms:
        return PanelTerms(
            consensus=self.panel_consensus, min_confidence=self.panel_min_confidence, stage_s=self.panel_stage_s
        )

    @property
    def databases(self) -> dict[str, str]:
        """Return where each database lives: ours, and those of the servers that `up` starts."""
        urls = (self.database_url, self.prefect_database_url, self.mlflow_database_url)
        return {
            name: url or f"sqlite:///{self.home / DATABASES[name]}" for name, url in zip(DATABASES, urls, strict=True)
        }

    @property
    def store_url(self) -> str:
        return self.databases["quarterdeck"]


def strategy_of(s: Settings, decider: str, **more: Any) -> Strategy:
    """Return what the settings make of a strategy; given: its symbols, instruments, venue and whatever else differs."""
    return Strategy(
        name=s.strategy, decider=decider, models=s.model, capital=s.paper_cash, limits=s.limits, costs=s.costs,
        thresholds=s.events, panel=s.panel, **more,
    )  # fmt: skip


def load(**overrides: object) -> Settings:
    """Read the settings once more; raises InputError naming the first wrong value and what would be right."""
    try:
        read = Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates the overrides
    except ValidationError as e:
        first = e.errors()[0]
        name = PREFIX + "__".join(str(part) for part in first["loc"]).upper()
        # a setting there is not may be a secret in the wrong place
        hidden = first["type"] == "extra_forbidden" or HIDDEN.search(name)
        value = "" if hidden else f"={redacted(repr(first['input']))}"
        raise InputError(f"{name}{value}: {first['msg']}") from None  # a traceback would show the value
    except ValueError as e:  # TOML, its encoding, or JSON in a variable
        raise InputError(f"quarterdeck.toml or a variable {PREFIX}* cannot be read: {redacted(str(e))}") from None
    _remember_secrets(read)
    return read


def _remember_secrets(read: Settings) -> None:
    """Know the settings' secrets by value: alert addresses, with the tokens in them, and what is secret in any URL."""
    for value in vars(read).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, SecretStr):
                url = one.get_secret_value()
                remember([url, *(part for part in re.split("[/:@?&=]+", url) if len(part) > 8 and "." not in part)])
            elif isinstance(one, str):
                remember(secrets_of(one))


@cache
def settings() -> Settings:
    """Return the process's settings, read once."""
    return load()
