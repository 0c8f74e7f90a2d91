"""A flow that imports what ours import and does next to nothing: what is left is what a run itself costs."""

import ccxt.async_support
import great_expectations
import litellm
import mlflow
import pandas as pd
from prefect import flow, task

IMPORTED = (ccxt, great_expectations, litellm, mlflow, pd)


@task
def small(number: int) -> int:
    return number


@flow(name="heavy")
def heavy() -> int:
    return sum(small(number) for number in range(7))
