"""Moments as MLflow evaluation datasets, `NAME@VERSION`: a version never changes, and holds all that scoring needs."""

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.decision.masked_question import as_shown
from tasks.core.errors import InputError
from tasks.core.lab.moments import Moment
from tasks.core.types import Utc

KIND = "quarterdeck-moments"
AT_ONCE = 200  # records in one request
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class MomentSet(NamedTuple):
    """One version of a set of moments, as it is listed."""

    name: str
    version: int
    moments: int
    sha256: str
    source: str
    masked: bool
    first: str
    last: str
    created: Utc
    dataset_id: str


def inputs_of(moment: Moment) -> dict[str, Any]:
    """Return what a person reads of a moment on MLflow's pages, and what the same moment is found by."""
    shown = as_shown(moment.question).snapshot
    return {
        "symbol": moment.symbol,
        "as_of": moment.as_of.isoformat(),
        "reasons": list(shown.reason_for_call),
        "position": shown.position.side,
        "moment": moment.moment_id,
    }


def create(server: MlflowServer, name: str, moments: Sequence[Moment], tags: Mapping[str, str]) -> Any:
    """Keep moments as the next version of a name, or return the newest one where it holds the same."""
    if not moments:
        raise InputError(f"moments {name}: there are none to keep")
    if not NAME.fullmatch(name):
        raise InputError(
            f"moments {name!r}: a name is letters, digits, . _ - (its version is given by whoever keeps it)"
        )
    sha256 = hashlib.sha256("".join(sorted(each.moment_id for each in moments)).encode()).hexdigest()
    with server.translated():
        before = _versions(server, name)
        if before and before[-1].sha256 == sha256:
            return server.client.get_dataset(before[-1].dataset_id)
        version = before[-1].version + 1 if before else 1
        times = sorted(each.as_of.isoformat() for each in moments)
        told = {
            "kind": KIND, "set": name, "version": str(version), "sha256": sha256, "moments": str(len(moments)),
            "first": times[0], "last": times[-1], **tags,
        }  # fmt: skip
        made = server.client.create_dataset(f"{name}@{version}", server.experiment_id, told)
        records = [
            {"inputs": {**inputs_of(each), "packed": _packed(each)}, "expectations": each.moved} for each in moments
        ]
        for begin in range(0, len(records), AT_ONCE):
            made.merge_records(records[begin : begin + AT_ONCE])
        return made


def listed(server: MlflowServer, name: str = "") -> list[MomentSet]:
    """Return every version of every set, or of one, oldest first."""
    with server.translated():
        return _versions(server, name)


def read(server: MlflowServer, name: str) -> tuple[Any, list[Moment]]:
    """Return a dataset and its moments, of the newest version unless one is named; raises InputError."""
    set_name, _, version = name.partition("@")
    with server.translated():
        wanted = [each for each in _versions(server, set_name) if version in ("", str(each.version))]
        if not wanted:
            known = ", ".join(f"{each.name}@{each.version}" for each in _versions(server, ""))
            raise InputError(
                f"--moments {name}: there are none of that name ({known or '`moments create` makes them'})"
            )
        dataset = server.client.get_dataset(wanted[-1].dataset_id)
        packed = [row["packed"] for row in dataset.to_df()["inputs"]]
    return dataset, sorted(map(_unpacked, packed), key=lambda each: (each.as_of, each.symbol))


def _versions(server: MlflowServer, name: str) -> list[MomentSet]:
    found, token = [], None
    while True:
        page = server.client.search_datasets(filter_string=f"tags.kind = '{KIND}'", max_results=50, page_token=token)
        found += [_listed(each) for each in page]
        token = page.token
        if not token:
            return sorted(each for each in found if name in ("", each.name))


def _listed(dataset: Any) -> MomentSet:
    tags = dataset.tags
    return MomentSet(
        tags["set"], int(tags["version"]), int(tags["moments"]), tags["sha256"], tags.get("source", ""),
        tags.get("masked") == "true", tags["first"], tags["last"], dataset.created_time, dataset.dataset_id,
    )  # fmt: skip


def _packed(moment: Moment) -> str:
    return base64.b64encode(zlib.compress(moment.model_dump_json().encode(), 9)).decode()


def _unpacked(text: str) -> Moment:
    return Moment.model_validate_json(zlib.decompress(base64.b64decode(text)))
