"""The dataset as d3rlpy's replay buffers, `d3rlpy/<split>.h5`, made from its Parquet files; d3rlpy is not needed.

What `ReplayBuffer.load` reads (its format 2.1): per episode observations, actions, rewards, whether it terminated. Of
an episode that was cut off it leaves the last step out, as nobody knows where that led; here it is known: one more
observation, from which no step begins: so there are as many steps as rows. Its action is the last of CHOICES:
d3rlpy takes the highest number in a file for how many actions there are, and all files must have the same.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.adapters.files.minari import column, episodes, observed
from tasks.core.lab import rl

VERSION = "2.1"  # of the format
COLUMNS = ("observations", "actions", "rewards", "terminated")


def write_d3rlpy(folder: Path) -> None:
    """Write the splits that have steps."""
    (folder / "d3rlpy").mkdir()
    for split in rl.SPLITS:
        tables = list(episodes(folder / f"{split}.parquet"))
        if tables:
            _write(folder / "d3rlpy" / f"{split}.h5", tables)


def _write(path: Path, tables: list[pa.Table]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["columns"], file["num_episodes"], file["version"] = list(COLUMNS), len(tables), VERSION
        for number, table in enumerate(tables):
            for name, values in zip(COLUMNS, _episode(table), strict=True):
                file[f"{name}_{number}"] = values


def _episode(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return the columns of one episode: observations float32, actions int32 and rewards float32, both (steps, 1)."""
    seen, actions, rewards = observed(table), column(table, "action_id"), column(table, "reward")
    terminated = bool(column(table, "terminated")[-1])
    if not terminated:
        seen = np.concatenate([seen, observed(table.slice(len(table) - 1), "next_")])
        actions, rewards = np.append(actions, len(rl.CHOICES) - 1), np.append(rewards, 0.0)
    return seen, actions.astype(np.int32)[:, None], rewards.astype(np.float32)[:, None], terminated
