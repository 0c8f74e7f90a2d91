"""Closing the loop: records -> dataset -> a small policy -> replayed where it has not learnt, beside the baselines."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow

from tasks.core.errors import InputError


@flow(name="policy")
def policy(records: str, candles: dict[str, str], out: str, deciders: tuple[str, ...] = ()) -> dict[str, Any]:
    """Export, train, replay over the test split and compare, as one run; deciders: to compare with, none that costs."""
    return close_loop(Path(records), candles, Path(out), deciders)


def close_loop(
    records: Path,
    candles: dict[str, str],
    out: Path,
    deciders: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write dataset, policy.onnx and comparison into `out`; the comparison begins an embargo after the last cut.

    Raises InputError for a decider that asks models: compare that one with `quarterdeck compare`, which asks first.
    """
    from flows.evaluate import ComparisonRequest, carry_out, plan_work
    from tasks.adapters.files.folders import check_new
    from tasks.learn import export_dataset, train_policy

    model = out / "policy.onnx"
    check_new(out)
    card = export_dataset(out / "dataset", records, ("parquet",))
    trained = train_policy(out / "dataset", model)
    start = datetime.fromisoformat(card["cuts"][-1]) + timedelta(seconds=card["embargo_s"])
    request = ComparisonRequest(
        candles=candles, deciders=(f"model:{model.resolve()}", *deciders), start=start,
        end=datetime.fromisoformat(card["last"]), title="a policy cloned from records, where it has not learnt",
    )  # fmt: skip
    work = plan_work(request)
    if work.paid:
        raise InputError(f"--decider {work.paid[0][0].decider}: asks models; compare it with `quarterdeck compare`")
    compared = carry_out(work, None, out / "comparison")
    return {"dataset": card["splits"], "trained": trained, "from": start, "compared": compared}
