"""`quarterdeck prompts`: versions, what changed between them, and which one is champion."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import json_option
from flows.commands.output import echo, emit, progress, say
from flows.commands.spending import consent, max_cost_option
from tasks.core.errors import InputError

if TYPE_CHECKING:
    from tasks.adapters.mlflow.prompt_registry import PromptRegistry, Standing


@click.group()
def prompts() -> None:
    """Prompt versions."""


@prompts.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Every prompt file with its version, hash and aliases."""
    from tasks.adapters.files.prompts import aliases, list_prompts

    known = aliases()
    for prompt in list_prompts():
        names = known.get(prompt.name, {})
        named = sorted(alias for alias, to in names.items() if to.version == prompt.version)
        text = f"{prompt.name:<12} {prompt.version}  {prompt.sha256[:12]}  {' '.join(named):<9}  {prompt.why}".rstrip()
        fields = {"name": prompt.name, "version": prompt.version, "sha256": prompt.sha256}
        say(text, as_json, **fields, aliases=named, why=prompt.why)


@prompts.command()
@json_option
def sync(as_json: bool) -> None:
    """Register prompt files in MLflow under their own numbers, set aliases as they are here, and say what differs.

    What was made in MLflow is named, and left as it is: `pull` takes it into a file.
    """
    from tasks.adapters.files.prompts import CHAMPION, aliases, list_prompts

    registry, named, files = _registry(), aliases(), list_prompts()
    standings = registry.sync(files)
    for each in standings:
        _say_standing(each, as_json)
    for role in dict.fromkeys(prompt.name for prompt in files):
        for alias in (CHAMPION, "challenger"):
            to, fields = named.get(role, {}).get(alias), {"role": role, "alias": alias}
            if to is None:
                if was := registry.alias(role, alias):
                    text = f"{role}: MLflow calls its version {was} {alias}, and nobody here does: prompts promote"
                    say(text, as_json, **fields, version="", was=was)
                continue
            was = registry.set_alias([prompt for prompt in files if prompt.name == role], to.version, alias)
            moved = f", in MLflow it was version {was}" if was not in (0, int(to.version[1:])) else ""
            say(f"{role} {alias} is {to.version}{moved}", as_json, **fields, version=to.version, was=was)
    if changed := [each for each in standings if each.state is type(each.state).CHANGED]:
        raise InputError(str(changed[0]))


@prompts.command()
@click.argument("role")
@click.option("--version", "number", type=click.IntRange(1), help="MLflow's number; the newest that is in no file")
@json_option
def pull(role: str, number: int | None, as_json: bool) -> None:
    """Write a version that was made in MLflow into the next file of its role, once it is a prompt of that role.

    Nothing is overwritten, and nothing uses it until `promote` or a decider's `@version` names it.
    """
    from tasks.adapters.files.prompts import files_of, save_prompt

    registry, files = _registry(), files_of(role)
    number, text = registry.pull(files, number)
    prompt = save_prompt(text, role, f"v{files[-1].number + 1:03}")
    differ = "" if prompt.number == number else f": {files[-1].version} was the newest file, so the numbers differ"
    fields = {"role": role, "version": prompt.version, "sha256": prompt.sha256, "mlflow_version": number}
    say(f"MLflow version {number} of {role} is prompts/{role}/{prompt.version}.md now{differ}", as_json, **fields)
    for each in registry.sync(files_of(role)):
        if not as_json and each.version == prompt.version:
            _say_standing(each, as_json)


def _registry() -> "PromptRegistry":
    from tasks.connections import tracker

    mirror = tracker()
    if mirror is None:
        raise InputError("QUARTERDECK_MLFLOW_URL is empty: there is no registry of prompts")
    return mirror.prompts


def _say_standing(each: "Standing", as_json: bool) -> None:
    fields = {"role": each.role, "version": each.version, "mlflow_version": each.number}
    say(str(each), as_json, **fields, state=each.state.name.lower())


@prompts.command()
@click.argument("role")
@click.argument("old")
@click.argument("new")
@json_option
def diff(role: str, old: str, new: str, as_json: bool) -> None:
    """What changed between two versions of a role's prompt; OLD and NEW may be aliases."""
    from tasks.adapters.files.prompts import diff_prompts

    lines = diff_prompts(role, old, new)
    say(lines or f"{role}: {old} and {new} are the same", as_json, role=role, old=old, new=new, diff=lines)


@prompts.command()
@click.argument("role")
@click.argument("version")
@click.option("--alias", type=click.Choice(["champion", "challenger"]), required=True)
@click.option("--evidence", default="", help="a comparison: its run in MLflow, or a file of `compare --mask --json`")
@click.option("--override", is_flag=True, help="promote whatever the evidence says; needs --reason")
@click.option("--reason", default="", help="why you override, for the history")
@json_option
def promote(
    role: str, version: str, alias: str, evidence: str, override: bool, reason: str, as_json: bool
) -> None:  # fmt: skip
    """Let an alias name this version: live runs use the champion, and the latest where there is none.

    A champion needs evidence: a masked comparison with the version in use that is not worse, and enough settled shadow
    decisions that are better, at a cost and with invalid replies within QUARTERDECK_PROMOTION__*. `settle` goes back
    to the version before when the new champion breaks its limits.
    """
    from flows.promote import explain_refusal
    from flows.promote import promote as move_alias

    if override != bool(reason.strip()):
        raise InputError("--override and --reason go together: say why the evidence is overruled")
    move = move_alias(role, version, alias, evidence, reason.strip())
    for criterion in move.criteria:
        echo(str(criterion), err=as_json)
    explain_refusal(move)
    shown = move if as_json else {k: getattr(move, k) for k in ("role", "alias", "version", "previous", "kind")}
    emit(shown, as_json)


@prompts.command()
@click.argument("version")
@click.option("--moments", required=True, help="kept by `moments create`: NAME or NAME@VERSION")
@click.option("--model", default="", help="a litellm name; else the first of QUARTERDECK_MODEL")
@max_cost_option
@json_option
def check(version: str, moments: str, model: str, max_cost: Decimal | None, as_json: bool) -> None:
    """Exit 1 where VERSION, e.g. single/v003, does worse on kept moments than the version in use.

    Worse is: more invalid replies, more answers that the guard denies, or a mean R below the interval of that one.
    """
    from flows.moments import check as checked

    role, _, wanted = version.partition("/")
    if not wanted:
        raise InputError(f"{version!r}: write ROLE/VERSION, e.g. single/v003")
    models = (model,) if model else ()
    found = checked(role, wanted, moments, models, lambda calls, usd: consent(calls, usd, max_cost))
    if as_json:
        emit(found, True)
    else:
        for criterion in found["criteria"]:
            echo(str(criterion))
        echo(f"{role}/{found['version']} against {found['against']} on {found['moments']}; in MLflow:")
        for label, run_id in found["evaluations"].items():
            echo(f"  {run_id}  {label}")
    if not found["passed"]:
        raise SystemExit(1)


@prompts.command()
@click.argument("role")
@click.option("--moments", required=True, help="kept by `moments create --mask`: NAME or NAME@VERSION")
@click.option("--model", default="", help="whom they are for, a litellm name; else the first of QUARTERDECK_MODEL")
@click.option("--reflection-model", default="", help="who writes them; else the same")
@click.option("--candidates", type=click.IntRange(1, 500), default=20, help="proposed at most")
@click.option("--unmasked", is_flag=True, help="take moments that a model may remember")
@max_cost_option
@json_option
def optimize(role: str, max_cost: Decimal | None, as_json: bool, **options: Any) -> None:
    """Write the prompts of ROLE anew (panel: of all its roles) by what the market did after kept moments.

    Only what is shown to be better becomes a challenger, in files of its own. Interrupted, the same command goes on.
    """
    from flows.optimize import carry_out, outcome
    from tasks.optimize import OptimizationRequest, assign, estimated

    work = assign(OptimizationRequest(role=role, **options))
    calls, usd = estimated(work)
    cap = consent(calls, usd, max_cost)
    with progress("optimize", as_json, calls) as bar:
        document = carry_out(work, cap, lambda: bar(advance=1))
    if as_json:
        emit(document, True)
        return
    parts = ", ".join(f"{name} {document[name]}" for name in ("train", "validation", "locked"))
    sized = f"minibatches of {document['minibatch']}, as scores deviate by {document['deviation_r']:.2f} R"
    echo(f"{document['moments']}: {parts} moments; {sized}")
    if before := document["locked_window_opened_before"]:
        echo(f"its locked window was opened before, {len(before)} times, for the best of {max(before)} candidates")
    for criterion in document["criteria"]:
        echo(str(criterion))
    echo(f"{outcome(document)}; MLflow run {document['mlflow_run']}")


@prompts.command()
@click.argument("role", required=False)
@json_option
def history(role: str | None, as_json: bool) -> None:
    """Every move of an alias, and every refusal, newest first."""
    from tasks.connections import store

    for move in store().prompts.moves(role):
        why = f"  {move.reason}" if move.reason else ""
        moved = f"{move.role} {move.alias} {move.previous or '-'} -> {move.version} by {move.who}{why}"
        say(f"{move.at:%Y-%m-%d %H:%M} {move.kind:<12} {moved}", as_json, **dict(move))


COMMANDS = (prompts,)
