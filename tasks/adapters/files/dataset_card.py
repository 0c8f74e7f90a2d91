"""The dataset card for people: how it is loaded, what is in it, and what it must not be taken for."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.core.pages.markdown import table

_TRAINED = """\
import torch
from datasets import load_dataset
from trl import {trainer}Config, {trainer}Trainer

examples = load_dataset("./{name}")
how = {trainer}Config("trained", max_length=8192, bf16=torch.cuda.is_available())
trainer = {trainer}Trainer("Qwen/Qwen3-0.6B", args=how, train_dataset=examples["train"])
"""
SNIPPETS = {  # by format; they run as they stand, in the dataset's folder
    "always": """\
import pandas

rows = pandas.read_parquet("train.parquet")
print(rows[["as_of", "asked_action", "asked_propensity", "action", "reward"]].tail())
""",
    "parquet": """\
import os

from datasets import load_dataset

rows = load_dataset(os.getcwd())  # it takes no "."
print(rows["train"])
""",
    "minari": """\
import os

os.environ["MINARI_DATASETS_PATH"] = os.path.abspath("minari")
import minari

data = minari.load_dataset("quarterdeck-train-v1")
episode = data[0]
print(data.env_spec, episode.observations.shape, episode.infos["action_mask"].shape)
""",
    "d3rlpy": """\
import d3rlpy
from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

with open("d3rlpy/train.h5", "rb") as file:  # `get_minari` would shift the observations of later episodes
    steps = ReplayBuffer.load(file, InfiniteBuffer())
policy = d3rlpy.algos.DiscreteCQLConfig().create(device="cpu:0")
policy.fit(steps, n_steps=100, n_steps_per_epoch=100)
""",
    "sft": _TRAINED.format(name="sft", trainer="SFT"),
    "dpo": _TRAINED.format(name="dpo", trainer="DPO"),
    "kto": _TRAINED.format(name="kto", trainer="KTO"),
    "grpo": """\
import re

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer


def worth(completions, **columns):
    said = [re.search(r'"action":\\s*"(\\w+)"', each[0]["content"]) for each in completions]
    names = [f"reward_{found[1]}" if found else "" for found in said]
    return [columns[name][k] if name in columns else -1.0 for k, name in enumerate(names)]


examples = load_dataset("./grpo")
how = GRPOConfig("trained", max_completion_length=1200, bf16=torch.cuda.is_available())
trainer = GRPOTrainer("Qwen/Qwen3-0.6B", reward_funcs=worth, args=how, train_dataset=examples["train"])
""",
}


def render(card: Mapping[str, Any]) -> str:
    """Write the card as Markdown."""
    environment = Environment(  # noqa: S701  (no HTML: `table` escapes its cells)
        loader=PackageLoader("tasks.adapters.files", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("dataset_card.md.j2").render(card=card, table=table, snippets=SNIPPETS)
