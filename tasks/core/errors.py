"""Everything this system raises on purpose; each docstring says what the system does next."""


class TradingError(Exception):
    """Anything this system raises on purpose."""


class InputError(TradingError):
    """The user's input was wrong: print the one line, exit with code 2, change nothing."""


class DataError(TradingError):
    """Missing, stale or malformed market data: quarantine the symbol for this cycle and record why."""


class StoreError(TradingError):
    """The database does not answer: hold; nothing is sent that could not be recorded first."""


class VenueError(TradingError):
    """The exchange answered with an error."""


class VenueUnavailable(VenueError):
    """Outcome unknown (timeout, 5xx, dropped connection): look up by client order id, then retry."""


class VenueBusy(VenueUnavailable):
    """Nothing was done (rate limit, maintenance, a clock that is off): ask again later, the same thing."""


class OrderRejected(VenueError):
    """Refused by the venue: never retry; record and alert."""


class OrderGone(OrderRejected):
    """The order or position asked about is there no more: look at what became of it; never retry."""


class NotModified(VenueError):
    """It is so at the venue already: go on."""


class DuplicateOrder(VenueError):
    """The venue already has this client order id: look the order up; it is not a failure."""


class LeaseLost(TradingError):
    """Another run may be deciding on this symbol by now: nothing more is sent, and the record says so."""


class LedgerMismatch(TradingError):
    """Venue and ledger disagree: halt new entries and page a human."""


class TrackingUnavailable(TradingError):
    """MLflow does not answer. Tracking is a mirror: warn and go on; `settle` sends it later."""
