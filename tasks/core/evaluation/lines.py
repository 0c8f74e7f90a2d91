"""A record as a line of JSON, byte for byte what `model_dump_json` gives, at half its cost.

What many records of a replay share, the terms and the trades closed before, is serialised once and put in its place.
No text of a record can be taken for such a place: inside a JSON string every quote has a backslash before it.
"""

from pydantic import TypeAdapter

from tasks.core.types.portfolio import AccountState, ClosedTrade
from tasks.core.types.record import CycleRecord, Inputs, Terms

_TRADES = TypeAdapter(tuple[ClosedTrade, ...])


class LineWriter:
    """Writes the records of one run; remembers the parts it has seen last."""

    def __init__(self) -> None:
        self.terms: tuple[Terms | None, str] = (None, "")
        self.trades: tuple[tuple[ClosedTrade, ...], str] = ((), "[]")

    def __call__(self, record: CycleRecord) -> bytes:
        """Return the record's JSON with a newline."""
        text = record.model_dump_json(exclude={"state", "inputs"})
        parts = f'"state":{self._state(record.state)},"inputs":{self._inputs(record.inputs)}'
        return (text.replace(',"decided":', f',{parts},"decided":', 1) + "\n").encode()

    def _state(self, state: AccountState | None) -> str:
        if state is None:
            return "null"
        if state.closed_trades != self.trades[0]:
            self.trades = (state.closed_trades, _TRADES.dump_json(state.closed_trades).decode())
        text = state.model_dump_json(exclude={"closed_trades"})
        return text.replace(',"opens":', f',"closed_trades":{self.trades[1]},"opens":', 1)

    def _inputs(self, inputs: Inputs | None) -> str:
        if inputs is None:
            return "null"
        if inputs.terms is not self.terms[0]:
            self.terms = (inputs.terms, inputs.terms.model_dump_json())
        text = inputs.model_dump_json(exclude={"terms", "state"})
        return f'{{"terms":{self.terms[1]},"state":{self._state(inputs.state)},{text[1:]}'
