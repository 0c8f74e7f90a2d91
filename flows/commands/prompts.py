"""`quarterdeck prompts`: versions, what changed between them, and which one is champion."""

import click

from flows.commands.options import json_option
from flows.commands.output import echo, emit, say
from tasks.core.errors import InputError


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
        text = f"{prompt.name:<12} {prompt.version}  {prompt.sha256[:12]}  {' '.join(named)}".rstrip()
        say(text, as_json, name=prompt.name, version=prompt.version, sha256=prompt.sha256, aliases=named)


@prompts.command()
@json_option
def sync(as_json: bool) -> None:
    """Register every prompt file in MLflow, in order, and set its aliases as they are here.

    MLflow counts versions itself: the file's version and hash are tags. A file that differs from what was registered
    under its version is refused.
    """
    from tasks.adapters.files.prompts import aliases, list_prompts, load_prompt
    from tasks.connections import tracker

    mirror = tracker()
    if mirror is None:
        raise InputError("QUARTERDECK_MLFLOW_URL is empty: there is nothing to sync to")
    for prompt in list_prompts():
        version = mirror.register_prompt(prompt)
        text = f"{prompt.name} {prompt.version} is MLflow version {version}"
        say(text, as_json, role=prompt.name, version=prompt.version, mlflow_version=version)
    for role, named in aliases().items():
        for alias, to in named.items():
            mirror.set_prompt_alias(load_prompt(role, to.version), alias)
            say(f"{role} {alias} is {to.version}", as_json, role=role, alias=alias, version=to.version)


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
    from flows.promote import promote as move_alias

    if override != bool(reason.strip()):
        raise InputError("--override and --reason go together: say why the evidence is overruled")
    move = move_alias(role, version, alias, evidence, reason.strip())
    for criterion in move.criteria:
        echo(str(criterion), err=as_json)
    if move.kind == "refused":
        first = next(each for each in move.criteria if not each.passed)
        raise InputError(
            f"{role}/{move.version} is not promoted: {first.name} is {first.value}, needs {first.threshold}; a person "
            "may overrule that with --override --reason TEXT"
        )
    shown = move if as_json else {k: getattr(move, k) for k in ("role", "alias", "version", "previous", "kind")}
    emit(shown, as_json)


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
