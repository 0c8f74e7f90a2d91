"""The RL dataset on disk: `train|validation|test.parquet` and a card (`card.json`, `README.md`), appearing whole.

What a transition is stands in `core.lab.rl`. Records are read, paired and written in batches, so memory does not
grow with them; other formats are made from the Parquet files (`minari`).
"""

import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.adapters.files.conversations import Conversations, Others, head
from tasks.adapters.files.d3rlpy import write_d3rlpy
from tasks.adapters.files.dataset_card import render
from tasks.adapters.files.dataset_formats import FOR_MODELS, FORMATS
from tasks.adapters.files.folders import check_new
from tasks.adapters.files.minari import write_minari
from tasks.adapters.store import BEGINNING, END
from tasks.adapters.store.shadow import CHAMPION
from tasks.core.lab import rl
from tasks.core.lab.action_values import Foreseen, Future
from tasks.core.lab.conversations import MARGIN_R
from tasks.core.lab.ope import effective_n
from tasks.core.types import COLUMNS, Answer, CycleRecord, InputError, Json, read_dto

if TYPE_CHECKING:
    from tasks.adapters.store.store import Store

BATCH = 2000  # rows in memory per split, and in a row group
DRAWN = ("random", "vote_share")  # kinds of propensity of what could have come out otherwise
COUNTED = ("symbol", "action", "status", "decider", "model", "prompt_version", "rung", "codes")
RANGED = ("reward", "reward_symbol", "reward_r", "elapsed_s", "propensity", "asked_propensity", "behavior_propensity")
_AS_OF = re.compile(rb'"as_of":\s*"([^"]+)"')


class Source(NamedTuple):
    """Where records come from: said in the card, from when to when they are, and a fresh pass over them.

    others: what challengers answered in a cycle, by name. future: what came after. world: what the environment takes to
    be made over it.
    """

    name: str
    span: tuple[datetime, datetime]
    records: Callable[[], Iterable[CycleRecord]]
    scores: rl.Scores = lambda _: {}
    others: Others = lambda _: ()
    future: Future | None = None
    world: Mapping[str, str] = {}


def records_file(path: Path) -> Path:
    """Return the file that --records names, which may be the folder it is in."""
    return path / "records.jsonl" if path.is_dir() else path


def file_source(path: Path) -> Source:
    """Read the records.jsonl that `backtest --out` writes, or the folder it is in; `.gz` too."""
    path = records_file(path)
    try:
        with _open(path) as lines:
            found = (_AS_OF.search(line) for line in lines)
            times = [datetime.fromisoformat(as_of[1].decode()) for as_of in found if as_of]
    except (OSError, ValueError) as e:
        raise InputError(f"--records {path}: {getattr(e, 'strerror', None) or e}") from e
    if not times:
        raise InputError(f"--records {path}: no cycle record in it; `quarterdeck backtest --out DIR` writes them")
    return Source(path.name, (min(times), max(times)), lambda: read_records(path))


def store_source(store: "Store", strategy: str) -> Source:
    """Read a strategy's cycles from the store, with what its challengers' answers would have earned."""
    span = store.cycles.span(strategy)
    if span is None:
        raise InputError(f"the store has no cycle of strategy {strategy!r} yet; name a backtest's with --records")
    scores: dict[str, dict[str, float]] = {}
    others: dict[str, list[tuple[str, Answer]]] = {}
    voted = {
        shadow.cycle_id: shadow.decided
        for shadow in store.shadow.between(strategy, CHAMPION, BEGINNING, END)
        if shadow.decided.votes
    }
    for shadow, return_pct in store.shadow.scored(strategy):
        scores.setdefault(shadow.cycle_id, {})[shadow.decider] = float(return_pct)
        if shadow.decider != CHAMPION:
            others.setdefault(shadow.cycle_id, []).append((shadow.decider, shadow.decided))

    def records() -> Iterator[CycleRecord]:
        """Yield the cycles, each with the votes of its decider, which were asked for after it."""
        for record in store.cycles.oldest_first(strategy):
            yield record.replace(decided=voted.get(record.cycle_id, record.decided))

    return Source(
        f"store: {strategy}", span, records,
        scores=lambda cycle_id: scores.get(cycle_id, {}), others=lambda cycle_id: others.get(cycle_id, ()),
    )  # fmt: skip


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]  # both read bytes


def read_records(path: Path) -> Iterator[CycleRecord]:
    """Yield the cycle records in a file of JSON lines."""
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield read_dto(CycleRecord, line, f"--records {path}, line {number}")


def schema() -> pa.Schema:
    """Return the columns; each is explained in `core.lab.rl`."""
    state, flags = pa.list_(pa.float32(), len(rl.COMPONENTS)), pa.list_(pa.bool_(), len(rl.COMPONENTS))
    mask, worth = (pa.list_(kind, len(rl.CHOICES)) for kind in (pa.bool_(), pa.float64()))
    time, text, real = pa.timestamp("us", "UTC"), pa.string(), pa.float64()
    action = {"action_id": pa.int8(), "action": text}
    action |= dict.fromkeys(("size_pct", "stop_atr", "tp_atr", "minutes", "offset_bps", "stop_to_atr"), real)
    action |= {"entry_type": text, "stop_to": text, "followups": pa.list_(text)}
    columns = {
        "cycle_id": text, "strategy": text, "symbol": text, "as_of": time, "next_as_of": time, "elapsed_s": pa.int64(),
        "state": state, "state_unknown": flags, "allowed": mask, **action,
        "propensity": real, "propensity_kind": text,
        "reward": real, "reward_symbol": real, "reward_r": real, "entry_cycle_id": text,
        "equity_before": real, "equity_after": real,
        "next_state": state, "next_state_unknown": flags, "next_allowed": mask,
        "terminated": pa.bool_(), "truncated": pa.bool_(), "done": pa.bool_(),
        **{f"asked_{name}": kind for name, kind in action.items()},
        "asked_propensity": real, "asked_propensity_kind": text,
        "behavior": text, "behavior_propensity": real, "behavior_propensity_kind": text,
        "behavior_odds": worth, "votes": pa.int16(),
        "action_value_pct": worth, "action_value_r": worth,
        "guard_rewrite": pa.bool_(), "codes": pa.list_(text), "status": text,
        "decider": text, "source": text, "rung": text, "model": text, "prompt_version": text, "confidence": real,
        "counterfactual": pa.list_(pa.struct({"decider": text, "return_pct": real})),  # a map loads not everywhere
        **dict.fromkeys(COLUMNS, real),
    }  # fmt: skip
    metadata = {"spec": rl.SPEC, "spec_sha256": rl.SPEC_SHA256}
    return pa.schema(list(columns.items()), metadata=metadata)


class _Writer:
    """One Parquet file per split, and what the card says of their rows."""

    def __init__(self, folder: Path) -> None:
        self.schema = schema()
        self.waiting: dict[str, list[rl.Row]] = {split: [] for split in rl.SPLITS}
        self.files = {split: pq.ParquetWriter(folder / f"{split}.parquet", self.schema) for split in rl.SPLITS}
        self.rows: Counter[str] = Counter()
        self.seen: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        self.overlap = _Overlap()
        self.parts: list[pd.DataFrame] = []  # of each batch, by ranged column and feature: what `ranges` adds up

    def add(self, split: str, row: rl.Row) -> None:
        self.waiting[split].append(row)
        if len(self.waiting[split]) >= BATCH:
            self.flush(split)

    def flush(self, split: str) -> None:
        rows = self.waiting[split]
        self.files[split].write_table(pa.Table.from_pylist(rows, schema=self.schema))
        self.rows[split] += len(rows)
        self.overlap.add(rows)
        for name, counter in self.seen.items():
            counter.update(each for row in rows for each in (row[name] if name == "codes" else [row[name]]))
        state, unknown = (np.array([row[name] for row in rows]) for name in ("state", "state_unknown"))
        features = pd.DataFrame(np.where(unknown, np.nan, state), columns=list(rl.COMPONENTS))
        values = pd.DataFrame(rows, columns=list(RANGED), dtype=float).join(features)
        self.parts.append(
            pd.DataFrame({"known": values.count(), "sum": values.sum(), "min": values.min(), "max": values.max()})
        )
        rows.clear()

    def close(self) -> None:
        for split, file in self.files.items():
            if self.waiting[split]:
                self.flush(split)
            file.close()

    def ranges(self) -> dict[Any, Any]:
        """Return count, extremes and mean of each ranged column and feature."""
        parts = pd.concat(self.parts).groupby(level=0)
        whole = parts.agg({"known": "sum", "sum": "sum", "min": "min", "max": "max"})
        whole["mean"] = (whole.pop("sum") / whole["known"]).round(12)
        found = {}
        for name, shown in whole.to_dict("index").items():
            known = int(shown.pop("known"))
            rounded = {key: float(f"{value:.6g}") for key, value in shown.items() if known}
            found[name] = {"known": known, "unknown": self.rows.total() - known, **rounded}
        return found


class _Overlap:
    """How often each action could have been, was asked for and was carried out, and how much was left to chance."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.weights: list[float] = []  # towards who takes each allowed action equally often
        self.counts = {action: Counter[str]() for action in rl.CHOICES}
        self.worth = dict.fromkeys(rl.CHOICES, 0.0)

    def add(self, rows: Sequence[rl.Row]) -> None:
        for row in rows:
            kind, share = row["asked_propensity_kind"] or "unknown", row["asked_propensity"]
            self.kinds[kind] += 1
            if kind in DRAWN and share:
                self.weights.append(1 / sum(row["allowed"]) / share)
            for action, allowed, r in zip(rl.CHOICES, row["allowed"], row["action_value_r"], strict=True):
                found = {"allowed": allowed, "asked": row["asked_action"] == action, "taken": row["action"] == action}
                self.counts[action].update(name for name, so in (found | {"valued": r is not None}).items() if so)
                self.worth[action] += r or 0.0

    def summary(self) -> Json:
        actions = {}
        for action, counts in self.counts.items():
            named: Json = {name: counts[name] for name in ("allowed", "asked", "taken", "valued")}
            mean = self.worth[action] / counts["valued"] if counts["valued"] else None
            if counts:
                actions[action] = named | {"mean_value_r": None if mean is None else float(f"{mean:.4g}")}
        effective = effective_n(np.array(self.weights))
        return {
            "kinds": dict(self.kinds.most_common()),
            "drawn": len(self.weights),
            "effective_n": effective,
            "actions": actions,
        }


def export(source: Source, out: Path, formats: Sequence[str] = (), margin_r: float = MARGIN_R) -> Json:
    """Write the dataset of `source` into the new folder `out` and return its card.

    margin_r: how far apart two replies must be to be a pair, or to be good or bad.
    """
    if unknown := set(formats).difference(FORMATS):
        raise InputError(f"--format {unknown.pop()!r}: there are {', '.join(FORMATS)}")
    embargo = rl.longest_trade(source.records())
    plan = rl.SplitPlan(start=source.span[0], end=source.span[1], embargo=embargo)
    left_out: Counter[str] = Counter()
    for_models = [name for name in FOR_MODELS if name in formats]
    with _whole(out) as partial:
        writer, foresight = _Writer(partial), _once(source.future)
        spoken = Conversations(partial, for_models, plan, source.future, source.others, margin_r)
        records = spoken.watched(source.records(), foresight)
        for split, row in rl.transitions(records, plan, left_out, source.scores, foresight):
            writer.add(split, row)
        writer.close()
        if not writer.rows:
            reasons = ", ".join(f"{why} {n}" for why, n in left_out.items()) or "nothing"
            raise InputError(
                f"{source.name}: no transition in it; left out: {reasons}; "
                "one goes from a decision to the symbol's next: take more records"
            )
        if "minari" in formats:
            write_minari(partial, source.world)
        if "d3rlpy" in formats:
            write_d3rlpy(partial)
        card = _card(source, plan, writer, left_out, partial)
        card |= {"examples": spoken.examples, "examples_left_out": spoken.left_out, "examples_masked": spoken.masked}
        card |= {"margin_r": margin_r, "formats": ["parquet", *(name for name in FORMATS[1:] if name in formats)]}
        (partial / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        rows = {split: f"{split}.parquet" for split, n in card["splits"].items() if n}
        (partial / "README.md").write_text(head(partial, "rows", rows) + render(card), encoding="utf-8")
    return card


def _once(future: Future | None) -> rl.Foresight:
    """Return foresight that looks once at each record, whoever asks for it in turn."""
    last: list[tuple[CycleRecord, Foreseen]] = []

    def seen(record: CycleRecord) -> Foreseen:
        if future is None:
            return Foreseen()
        if not last or last[0][0] is not record:
            last[:] = [(record, future(record))]
        return last[0][1]

    return seen


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that becomes it at the end, or goes."""
    check_new(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _card(source: Source, plan: rl.SplitPlan, writer: _Writer, left_out: Counter[str], folder: Path) -> Json:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    ranges = writer.ranges()
    return {
        "source": source.name,
        "first": plan.start.isoformat(),
        "last": plan.end.isoformat(),
        "transitions": sum(writer.rows.values()),
        "splits": {split: writer.rows[split] for split in rl.SPLITS},
        "cuts": [cut.isoformat() for cut in plan.cuts],
        "embargo_s": int(plan.embargo.total_seconds()),
        "left_out": dict(sorted(left_out.items())),
        **{name: dict(counter.most_common()) for name, counter in writer.seen.items()},
        "overlap": writer.overlap.summary(),
        "ranges": {name: ranges[name] for name in RANGED},
        "features": {name: ranges[name] for name in rl.COMPONENTS},
        "spec": rl.spec_document(),
        "spec_sha256": rl.SPEC_SHA256,
        "sha256": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    }


def sha256_of(path: Path) -> str:
    """Return the hash of a file, however large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
