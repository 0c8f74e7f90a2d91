"""What a venue lets one trade on a symbol, as `ingest` last read it."""

from dataclasses import dataclass

from sqlalchemy import select

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import InstrumentRow
from tasks.core.types.orders import Instrument


@dataclass
class InstrumentRepository:
    """Instruments by venue and symbol."""

    database: Database

    def save(self, venue: str, instrument: Instrument) -> None:
        """Keep what the venue says of a symbol now, in place of what it said before."""
        row = {"venue": venue, "symbol": instrument.symbol, "document": instrument.model_dump(mode="json")}
        self.database.put(InstrumentRow, row)

    def get(self, venue: str, symbol: str) -> Instrument | None:
        """Return what the venue last said of a symbol; None if it was never asked."""
        query = select(InstrumentRow.document).filter_by(venue=venue, symbol=symbol)
        return self.database.first(Instrument, query)
