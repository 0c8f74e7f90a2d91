"""What models were asked and answered as JSON lines, `<format>/<split>.jsonl`, in the columns that TRL's trainers read.

Every file is there, an empty one where a split has no example. `datasets.load_dataset` fails on an empty file, and
takes a column's type from the first file: so the head of `<format>/README.md` names the files that have examples, and
the types. A folder has one kind of files, as it reads no two of them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO

import yaml

from tasks.core.lab import conversations as lab
from tasks.core.lab.action_values import HORIZON, Foreseen, Future
from tasks.core.lab.rl import CHOICES, SPLITS, Foresight, SplitPlan
from tasks.core.types import Answer, CycleRecord, Json

Others = Callable[[str], Sequence[tuple[str, Answer]]]

_TEXTS = ("cycle_id", "symbol", "as_of", "action", "status", "decider", "model", "prompt_version", "masked")
_COLUMNS = {  # of each format: what is a conversation, what a number, and the rest
    "sft": (("prompt", "completion", "messages"), (), {}),
    "dpo": (("prompt", "chosen", "rejected"), ("margin", "chosen_r", "rejected_r"), {"rejected_decider": "string"}),
    "kto": (("prompt", "completion"), ("gain_r",), {"label": "bool"}),
    "grpo": (("prompt",), tuple(f"reward_{action}" for action in CHOICES), {}),
}


class Conversations:
    """The examples of some formats, written as records pass by."""

    def __init__(
        self, folder: Path, formats: Sequence[str], plan: SplitPlan, future: Future | None, others: Others,
        margin_r: float,
    ) -> None:  # fmt: skip
        self.formats, self.plan, self.future, self.others, self.margin_r = formats, plan, future, others, margin_r
        names = [(name, split) for name in formats for split in SPLITS]
        for name in formats:
            (folder / name).mkdir()
        self.folder = folder
        self.files: dict[tuple[str, str], IO[str]] = {
            (name, split): (folder / name / f"{split}.jsonl").open("w", encoding="utf-8") for name, split in names
        }
        self.examples = {name: dict.fromkeys(SPLITS, 0) for name in formats}
        self.left_out: Counter[str] = Counter()
        self.masked: Counter[str] = Counter()

    def watched(self, records: Iterable[CycleRecord], foresight: Foresight) -> Iterator[CycleRecord]:
        """Pass records on, and write what examples they make."""
        try:
            for record in records:
                if self.formats:
                    self._take(record, foresight)
                yield record
        finally:
            for file in self.files.values():
                file.close()
        for name, of in self.examples.items():
            files = {split: f"{split}.jsonl" for split, n in of.items() if n}
            text = (
                head(self.folder / name, name, files, _features(name))
                + f"What a row of `{name}` is stands in ../README.md.\n"
            )
            (self.folder / name / "README.md").write_text(text, encoding="utf-8")

    def _take(self, record: CycleRecord, foresight: Foresight) -> None:
        foreseen = foresight(record)
        replies = lab.said(record, self.others(record.cycle_id), lambda answer: self._worth(record, foreseen, answer))
        if not replies:
            self.left_out[_why_not(record)] += 1
            return
        split = self.plan.split_of(record.as_of, record.as_of + (HORIZON if foreseen.by_action else HORIZON * 0))
        if split not in SPLITS:
            self.left_out[split] += 1
            return
        told = {"masked": self.future.masked(record) if self.future else "unknown"}
        self.masked[told["masked"]] += 1
        for name in self.formats:
            for example in self._examples(name, record, replies, foreseen):
                self.files[name, split].write(json.dumps(example | told, ensure_ascii=False) + "\n")
                self.examples[name][split] += 1

    def _examples(
        self, name: str, record: CycleRecord, replies: Sequence[lab.Said], foreseen: Foreseen
    ) -> Iterator[Json]:
        if name == "sft":
            return lab.sft(record, replies)
        if name == "dpo":
            return lab.dpo(record, replies, self.margin_r)
        if name == "kto":
            return lab.kto(record, replies, foreseen, self.margin_r)
        return lab.grpo(record, replies, foreseen)

    def _worth(self, record: CycleRecord, foreseen: Foreseen, answer: Answer) -> float | None:
        own = foreseen.by_action.get(answer.decision.action)
        if self.future is None or not foreseen.by_action:
            return None
        if own is not None and record.decided is not None and answer.decision == record.decided.decision:
            return own.r
        made = self.future.worth(record, answer)
        return None if made is None else made.net_r


def _why_not(record: CycleRecord) -> str:
    decided = record.decided
    if decided is None:
        return f"no_decision:{record.status}"
    if not any(call.messages for call in decided.calls):
        return "no_model_asked"
    return "fallback" if decided.is_fallback else "reply_does_not_read_back"


def head(folder: Path, name: str, files: Mapping[str, str], features: Sequence[Json] = ()) -> str:
    """Return the head of a README.md that tells `datasets.load_dataset` the file of each split, and their types.

    The name holds a hash of the files: those of another folder so called would be taken for these, out of its cache.
    """
    if not files:
        return ""
    content = sha256()
    for file in files.values():
        with (folder / file).open("rb") as opened:
            content.update(file_digest(opened, "sha256").digest())
    named = f"{name}-{content.hexdigest()[:12]}"
    paths = [{"split": split, "path": file} for split, file in files.items()]
    told: Json = {"configs": [{"config_name": named, "data_files": paths}]}
    if features:
        told["dataset_info"] = [{"config_name": named, "features": list(features)}]
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---\n"


def _features(name: str) -> list[Json]:
    def text(column: str) -> Json:
        return {"name": column, "dtype": "string"}

    turns, numbers, others = _COLUMNS[name]
    allowed = [{"name": "allowed", "list": "string"}] if name == "grpo" else []
    return [
        *({"name": column, "list": list(map(text, ("role", "content")))} for column in turns),
        *({"name": column, "dtype": "float64"} for column in (*numbers, "confidence")),
        *({"name": column, "dtype": dtype} for column, dtype in others.items()),
        *map(text, _TEXTS),
        *allowed,
    ]
