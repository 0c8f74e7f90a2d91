"""The dataset as Minari episodes, made from its Parquet files."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.lab import rl

if TYPE_CHECKING:
    from minari.data_collector.episode_buffer import EpisodeBuffer

EPISODE = 50_000  # steps; Minari reads an episode as one Arrow batch of at most 131,072 rows
OBSERVED = {"state": "state", "unknown": "state_unknown", "allowed": "allowed"}


def write_minari(folder: Path) -> None:
    """Write `minari/quarterdeck-<split>-v0`; read with MINARI_DATASETS_PATH=<folder>/minari.

    An episode is one symbol's run through a split. Observation: a dict of state, unknown and allowed; action: the
    action's id; reward: `reward`; infos: reward_r and elapsed_s, of the step that led there (first: 0).
    """
    import minari
    from gymnasium import spaces

    n = len(rl.COMPONENTS)
    observation = spaces.Dict(
        state=spaces.Box(-1, 1, (n,)), unknown=spaces.MultiBinary(n), allowed=spaces.MultiBinary(len(rl.CHOICES))
    )
    with patch.dict(os.environ, MINARI_DATASETS_PATH=str(folder / "minari")), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="minari")  # that there is no environment to play on
        for split in rl.SPLITS:
            dataset = None
            for episode in _episodes(folder / f"{split}.parquet"):
                if dataset is not None:
                    dataset.update_dataset_from_buffer([episode])
                    continue
                dataset = minari.create_dataset_from_buffers(
                    f"quarterdeck-{split}-v0",
                    [episode],
                    observation_space=observation,
                    action_space=spaces.Discrete(len(rl.CHOICES)),
                    data_format="arrow",
                    algorithm_name="see card.json: decider",
                    author="quarterdeck",
                    author_email="none",
                    code_permalink="none",
                    description=f"state {rl.SPEC} {rl.SPEC_SHA256}",
                )


def _episodes(file: Path) -> Iterator["EpisodeBuffer"]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for symbol in sorted(pq.read_table(file, columns=["symbol"])["symbol"].unique().to_pylist()):
        whole = pq.read_table(file, filters=[("symbol", "=", symbol)])
        for start in range(0, len(whole), EPISODE):
            table = whole.slice(start, EPISODE)
            terminated, truncated = column(table, "terminated"), column(table, "truncated")
            truncated[-1] = not terminated[-1]
            yield EpisodeBuffer(
                observations={
                    name: np.concatenate([column(table, own), column(table, f"next_{own}")[-1:]])
                    for name, own in OBSERVED.items()
                },
                actions=column(table, "action_id").astype(np.int64),
                rewards=column(table, "reward"),
                terminations=terminated,
                truncations=truncated,
                # lists, since it cannot read arrays back
                infos={name: [0.0, *column(table, name).tolist()] for name in ("reward_r", "elapsed_s")},
            )


def column(table: Any, name: str) -> np.ndarray:
    """Return a column as an array of its own; a list column as rows, bools in it as int8."""
    array = table[name].combine_chunks()
    if not pa.types.is_fixed_size_list(array.type):
        return np.array(array.to_numpy(zero_copy_only=False))
    values: np.ndarray = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return values.astype(np.int8) if values.dtype == bool else values
