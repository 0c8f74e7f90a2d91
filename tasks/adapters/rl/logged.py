"""A split of the dataset as arrays: what a policy learns from, and is evaluated on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray

from tasks.adapters.files.minari import column
from tasks.core.lab import rl
from tasks.core.types import InputError

UNKNOWN_KINDS = ("deterministic", "analyst_share")  # from which nothing follows about what was not done


@dataclass(frozen=True)
class Logged:
    """n steps, by strategy and symbol and in order of time in each.

    observations, next_observations: (n, 2 x features), as a policy reads them. allowed, next_allowed: (n, choices).
    actions: ids of what was carried out, asked: of what the behaviour asked for, propensity: how likely it was to; NaN
    where that is not known. starts: whether a step does not follow the one before it. reward: whose the rewards are,
    the symbol's own where every row knows them, else the account's.
    """

    observations: ndarray
    next_observations: ndarray
    allowed: ndarray
    next_allowed: ndarray
    actions: ndarray
    asked: ndarray
    propensity: ndarray
    rewards: ndarray
    terminated: ndarray
    starts: ndarray
    reward: str
    deterministic: bool  # whether all that is known of the behaviour is that it asks for one thing

    def __len__(self) -> int:
        return len(self.actions)


def table_of(data: Path, split: str, columns: list[str] | None = None) -> Any:
    """Read a split's rows; raises InputError where it is not there or its state is another one."""
    file = data / f"{split}.parquet"
    if not file.is_file():
        raise InputError(f"--records {data}: has no {split}.parquet; `quarterdeck export-rl --out DIR` writes it")
    spec = (pq.read_schema(file).metadata or {}).get(b"spec_sha256", b"none").decode()
    if spec != rl.SPEC_SHA256:
        ours = f"{rl.SPEC} {rl.SPEC_SHA256[:12]}"
        raise InputError(f"--records {data}: its state is {spec[:12]}, this is {ours}; export it again")
    return pq.read_table(file, columns=columns)


def read(data: Path, splits: tuple[str, ...]) -> Logged:
    """Read splits of a dataset that `export-rl` wrote."""
    table = pa.concat_tables([table_of(data, split) for split in splits])
    table = table.sort_by([("strategy", "ascending"), ("symbol", "ascending"), ("as_of", "ascending")])
    keys = table.select(["strategy", "symbol", "as_of", "next_as_of"]).to_pandas()
    before = keys.shift(1)
    follows = (before["next_as_of"] == keys["as_of"]) & (
        before[["strategy", "symbol"]] == keys[["strategy", "symbol"]]
    ).all(axis=1)
    reward = "reward" if table["reward_symbol"].null_count else "reward_symbol"
    kinds = table["asked_propensity_kind"].to_pandas()
    known = ~kinds.isin(UNKNOWN_KINDS).to_numpy()
    return Logged(
        observations=rl.policy_input(column(table, "state"), column(table, "state_unknown")),
        next_observations=rl.policy_input(column(table, "next_state"), column(table, "next_state_unknown")),
        allowed=column(table, "allowed").astype(bool),
        next_allowed=column(table, "next_allowed").astype(bool),
        actions=column(table, "action_id").astype(int),
        asked=column(table, "asked_action_id").astype(int),
        propensity=np.where(known, table["asked_propensity"].to_pandas().to_numpy(float), np.nan),
        rewards=column(table, reward).astype(float),
        terminated=column(table, "terminated").astype(bool),
        starts=~follows.to_numpy(),
        reward=reward,
        deterministic=bool(kinds.isin(UNKNOWN_KINDS).all()),
    )
