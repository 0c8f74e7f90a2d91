"""What a person has to know at once."""

from enum import StrEnum

from tasks.core.types.base import Dto


class AlertKind(StrEnum):
    """What an alert is about; the event it rings is `quarterdeck.alert.<kind>`."""

    HALT = "halt"
    EXPOSED = "exposed"  # a position without its stop
    FOREIGN = "foreign"  # a position at the venue that is not ours
    MISMATCH = "mismatch"  # venue and ledger disagree
    BUDGET = "budget"
    FALLBACK = "fallback"  # a rung below the model's first answered
    MISSED = "missed"
    CLOCK = "clock"  # the venue's is more than a minute off ours
    DEAD = "dead"  # a process of ours ended by itself
    SETTINGS = "settings"  # quarterdeck.toml was changed to what cannot be in force
    REFUSED = "refused"  # a run asked for what its worker does not do
    REPORT = "report"  # the day's summary: not trouble, but sent the same way
    # news: no trouble at all, sent by an automation of their own
    OPENED = "opened"
    CLOSED = "closed"
    PROPOSED = "proposed"  # a decision waits for a person
    DENIED = "denied"  # an hour's entries that the guard refused

    @property
    def is_news(self) -> bool:
        return self in (self.OPENED, self.CLOSED, self.PROPOSED, self.DENIED)


class Alert(Dto):
    """One thing to tell. While `key` goes on being seen, it is told once."""

    kind: AlertKind
    key: str
    text: str

    @property
    def fingerprint(self) -> str:
        return f"{self.kind}:{self.key}"
