"""The dataset as Minari episodes, made from its Parquet files."""

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.lab import rl

if TYPE_CHECKING:
    from gymnasium.spaces import Space
    from minari.data_collector.episode_buffer import EpisodeBuffer

EPISODE = 50_000  # steps; Minari reads an episode as one Arrow batch of at most 131,072 rows
OBSERVED = {"state": "state", "unknown": "state_unknown", "allowed": "allowed"}


def write_minari(folder: Path, world: Mapping[str, Any] | None = None) -> None:
    """Write `minari/quarterdeck-<split>-v0` and `-v1`; read with MINARI_DATASETS_PATH=<folder>/minari.

    An episode is one symbol's run through a split; action: the action's id; reward: `reward`; infos: reward_r and
    elapsed_s of the step that led there (first: 0), action_mask of what is allowed there. Observations of v1 are those
    of `Quarterdeck-v0`, one Box; of v0 a dict of state, unknown and allowed.

    world: candles and symbol, with which the environment can be made again from the dataset alone.
    """
    from gymnasium import spaces

    n = len(rl.COMPONENTS)
    parts = {"state": spaces.Box(-1, 1, (n,)), "unknown": spaces.MultiBinary(n)}
    of_version = (
        spaces.Dict(parts | {"allowed": spaces.MultiBinary(len(rl.CHOICES))}),
        spaces.Box(-1, 1, (2 * n,), np.float32),
    )
    # absolute: a relative one is joined twice
    root = patch.dict(os.environ, MINARI_DATASETS_PATH=str(folder.absolute() / "minari"))
    with root, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="minari")  # that there is no environment to play on
        for split in rl.SPLITS:
            for version, space in enumerate(of_version):
                _write(f"quarterdeck-{split}-v{version}", folder / f"{split}.parquet", space, world)


def _write(name: str, file: Path, space: "Space[Any]", world: Mapping[str, Any] | None) -> None:
    import minari
    from gymnasium import spaces

    dataset, returns = None, []
    for table in episodes(file):
        episode = _buffer(table, flat=isinstance(space, spaces.Box))
        returns.append(float(np.sum(episode.rewards)))
        if dataset is not None:
            dataset.update_dataset_from_buffer([episode])
            continue
        dataset = minari.create_dataset_from_buffers(
            name,
            [episode],
            observation_space=space,
            action_space=spaces.Discrete(len(rl.CHOICES)),
            data_format="arrow",
            algorithm_name="see card.json: decider",
            author="quarterdeck",
            author_email="none",
            code_permalink="none",
            description=f"state {rl.SPEC} {rl.SPEC_SHA256}",
            requirements=["quarterdeck"],
        )
    if dataset is not None and isinstance(space, spaces.Box):
        dataset.storage.update_metadata(_spec(world) | reference_scores(returns))


def _spec(world: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the environment that the flat observations are of; made by hand, as making one takes candles."""
    from gymnasium.envs.registration import EnvSpec

    entry = "tasks.adapters.rl.environment:TradingEnv"
    # an episode ends with its window; d3rlpy's `get_minari` takes no environment without a number of steps
    spec = EnvSpec("Quarterdeck-v0", entry_point=entry, max_episode_steps=EPISODE, kwargs=dict(world or {}))
    return {"env_spec": spec.to_json()}


def reference_scores(returns: list[float]) -> dict[str, float]:
    """Return the two returns of an episode between which scores are normalised: doing nothing, and the behaviour.

    The worse of them is 0, the better 1. None where they are equal: nothing was earned or lost.
    """
    behaviour = sum(returns) / len(returns)
    low, high = sorted((0.0, behaviour))
    return {"ref_min_score": low, "ref_max_score": high} if low < high else {}


def episodes(file: Path) -> Iterator[pa.Table]:
    """Yield the rows of each symbol's runs, oldest first, each up to where it is done."""
    for symbol in sorted(pq.read_table(file, columns=["symbol"])["symbol"].unique().to_pylist()):
        whole = pq.read_table(file, filters=[("symbol", "=", symbol)])
        ends = np.flatnonzero(column(whole, "done")) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            for first in range(start, end, EPISODE):
                yield whole.slice(first, min(EPISODE, end - first))


def observed(table: pa.Table, of: str = "") -> np.ndarray:
    """Return what a policy reads at each row, (rows, 2 x features) float32; of: `next_` for where it led."""
    return rl.policy_input(column(table, f"{of}state"), column(table, f"{of}state_unknown"))


def _buffer(table: pa.Table, flat: bool) -> "EpisodeBuffer":
    from minari.data_collector.episode_buffer import EpisodeBuffer

    terminated, truncated = column(table, "terminated"), column(table, "truncated")
    truncated[-1] = not terminated[-1]
    last = table.slice(len(table) - 1)
    parts = {
        name: np.concatenate([column(table, own), column(last, f"next_{own}")]) for name, own in OBSERVED.items()
    }  # fmt: skip
    # lists, since it cannot read arrays back
    infos = {name: [0.0, *column(table, name).tolist()] for name in ("reward_r", "elapsed_s")}
    return EpisodeBuffer(
        observations=np.concatenate([observed(table), observed(last, "next_")]) if flat else parts,
        actions=column(table, "action_id").astype(np.int64),
        rewards=column(table, "reward"),
        terminations=terminated,
        truncations=truncated,
        infos=infos | {"action_mask": parts["allowed"].tolist()},
    )


def column(table: Any, name: str) -> np.ndarray:
    """Return a column as an array of its own; a list column as rows, bools in it as int8."""
    array = table[name].combine_chunks()
    if not pa.types.is_fixed_size_list(array.type):
        return np.array(array.to_numpy(zero_copy_only=False))
    values: np.ndarray = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    return values.astype(np.int8) if values.dtype == bool else values
