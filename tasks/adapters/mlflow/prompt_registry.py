"""Prompts in MLflow's registry as its users know them: chat messages, reply schema, how models are asked, and why.

A role is `quarterdeck.ROLE`, and its version 3 is v003.md. What releases before called `quarterdeck-ROLE` counted for
itself and stays as it is. Models are asked with files alone: what was written in MLflow is never used and never written
over, only named, and pulled into a file by `quarterdeck prompts pull`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple, get_args

from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.decision import kinds
from tasks.core.decision.llm.prompt import Prompt, ReplySchema, check_variables, parse_prompt, render, written
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.types import Json, PromptRef

PAGE = 100  # versions per request
PLACEHOLDER = "placeholder"
_MODEL_CONFIG = "_mlflow_prompt_model_config"  # mlflow.prompt.constants, which is slow to import
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}")


class State(StrEnum):
    """How one version stands in the files and in MLflow; the value says it of a role, a file and MLflow's number."""

    SAME = "{role} {version} is MLflow version {number}"
    REGISTERED = "{role} {version} is MLflow version {number}, registered now"
    CHANGED = (
        "prompt {role}/{version} is no longer the file that MLflow version {number} was made of: restore the file and "
        "save the change as a new version"
    )
    TAKEN = (
        "{role} {version} is not in MLflow: its version {number} has another text: "
        "quarterdeck prompts pull {role} --version {number}"
    )
    DELETED = "{role} {version} is not in MLflow: version {number} was deleted there, and no number is given twice"
    THERE = "{role}: MLflow version {number} was made there: quarterdeck prompts pull {role} --version {number}"
    PULLED = "{role}: MLflow version {number} was made there, and is {version} here"
    ELSEWHERE = "{role}: MLflow version {number} is a file {version} that this checkout does not have"

    @property
    def known(self) -> bool:
        """Return whether file and version are the same."""
        return self in (State.SAME, State.REGISTERED)


class Standing(NamedTuple):
    """One version: `version` of the file, `number` in MLflow."""

    role: str
    version: str
    number: int
    state: State

    def __str__(self) -> str:
        return self.state.format(**self._asdict())


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """Return the messages that a prompt sends, with its variables as MLflow writes them."""
    return render(prompt, {name: f"{{{{{name}}}}}" for name in prompt.variables})


@dataclass
class PromptRegistry:
    """The registry of one server.

    alone: holds off every other machine while a version is registered; MLflow would number it twice. models: whom a
    prompt is sent to now, in failover order; parameters: what is sent beside the messages.
    """

    server: MlflowServer
    alone: Callable[[str], AbstractContextManager[object]] = nullcontext
    models: str = ""
    parameters: Callable[[PromptRef], Json] = lambda prompt: prompt.model_dump(include={"temperature", "max_tokens"})

    def versions(self, role: str) -> dict[int, Any]:
        """Return what is registered of a role, by MLflow's number; call it under the server's `translated`."""
        found, token = dict[int, Any](), None
        with unless_absent():
            while True:
                page = self.server.client.search_prompt_versions(entry(role), max_results=PAGE, page_token=token)
                found |= {int(version.version): version for version in page}
                if not (token := page.token):
                    break
        return found

    def by_sha256(self, roles: Iterable[str]) -> dict[str, Any]:
        """Return the registered versions of these roles that were made of files, by the hashes of those."""
        with self.server.translated():
            found = [version for role in roles for version in self.versions(role).values()]
        return {sha256: version for version in found if (sha256 := version.tags.get("sha256"))}

    def sync(self, files: Sequence[Prompt]) -> list[Standing]:
        """Register the files that MLflow lacks, each under its number; return how every version of a role stands.

        files: all of each role, in order.
        """
        with self.server.translated():
            roles = groupby(files, lambda prompt: prompt.name)
            return [standing for role, own in roles for standing in self._sync(role, list(own))]

    def set_alias(self, files: Sequence[Prompt], version: str, alias: str) -> int:
        """Let `alias` name a version of a role, all whose files these are; return what MLflow's named, 0 for none.

        Raises InputError where the file was changed, TrackingUnavailable where MLflow cannot have it under its number.
        """
        standing = next(each for each in self.sync(files) if each.version == version)
        if not standing.state.known:
            error = InputError if standing.state is State.CHANGED else TrackingUnavailable
            raise error(str(standing))
        with self.server.translated():
            was = self.alias(standing.role, alias)
            if was != standing.number:
                self.server.client.set_prompt_alias(entry(standing.role), alias, standing.number)
            return was

    def alias(self, role: str, alias: str) -> int:
        """Return the version that an alias names in MLflow, 0 for none."""
        found = []
        with self.server.translated(), unless_absent():
            found.append(int(self.server.client.get_prompt_version_by_alias(entry(role), alias).version))
        return next(iter(found), 0)

    def pull(self, files: Sequence[Prompt], number: int | None = None) -> tuple[int, str]:
        """Return the number and, as the file after the newest of these, the text of a version that was made in MLflow.

        files: all of the role. number: the newest such version unless said. Raises InputError where there is none, or
        it would not be a prompt.
        """
        latest = files[-1]
        with self.server.translated():
            known = self.versions(latest.name)
        standings = {each.number: each for each in _standings(files, known)}
        made = [each.number for each in standings.values() if each.state in (State.THERE, State.TAKEN)]
        free = [n for n in made if _alike(known[n], files) is None]
        chosen = number or max(free, default=0)
        if chosen not in free:
            why = f"; {standings[chosen]}" if chosen in standings else ""
            names = ", ".join(map(str, free)) or "none"
            what = f"version {number} cannot be pulled" if number else "nothing to pull"
            raise InputError(f"{latest.name}: {what}; made in MLflow and in no file yet: {names}{why}")
        return chosen, file_of(known[chosen], latest)

    def _sync(self, role: str, files: Sequence[Prompt]) -> Iterator[Standing]:
        known, numbers = self.versions(role), {prompt.number: prompt for prompt in files}
        before, newest = set(known), max(numbers)
        if newest > max(known, default=0):
            with self.alone(f"mlflow:{entry(role)}"):
                known = self.versions(role)
                for number in range(max(known, default=0) + 1, newest + 1):
                    self._register(role, number, numbers.get(number))
            known = self.versions(role)
        for standing in _standings(files, known):
            if standing.state is State.SAME:
                self._bring_up_to_date(numbers[standing.number], known[standing.number])
            new = standing.state is State.SAME and standing.number not in before
            yield standing._replace(state=State.REGISTERED) if new else standing

    def _bring_up_to_date(self, prompt: Prompt, there: Any) -> None:
        """Tell a version that was pulled of its file, and every one how models are asked now."""
        told = {} if "sha256" in there.tags else _tags(prompt)
        if (there.model_config or {}).get("model_name", "") != self.models:
            told |= {_MODEL_CONFIG: json.dumps(self._config(prompt.ref))}
        for name, value in told.items():
            self.server.client.set_prompt_version_tag(entry(prompt.name), there.version, name, value)

    def _config(self, prompt: PromptRef) -> Json:
        return {"model_name": self.models or None} | self.parameters(prompt)

    def _register(self, role: str, number: int, prompt: Prompt | None) -> None:
        """Give the next number to a file, or to nothing where there is no such file."""
        told: Json = {
            "template": [{"role": "system", "content": f"There is no file {role}/v{number:03}."}],
            "commit_message": "Holds the number of a file that is not there.",
            "tags": {PLACEHOLDER: "true"},
        }
        if prompt is not None:
            told = {
                "template": messages_of(prompt),
                "commit_message": prompt.why or f"{role}/{prompt.version}",
                "tags": _tags(prompt),
                "response_format": kinds.asking(role).schema_of(prompt),
                "model_config": self._config(prompt.ref),
            }
        made = self.server.client.register_prompt(name=entry(role), **told)
        if int(made.version) != number:  # somebody made one there meanwhile; this one is ours to take back
            self.server.client.delete_prompt_version(entry(role), made.version)
            raise TrackingUnavailable(f"MLflow gave {role}/v{number:03} the number {made.version}: sync again")


def entry(role: str) -> str:
    """Return the name that a role's prompts are registered under."""
    return f"quarterdeck.{role}"


@contextmanager
def unless_absent() -> Iterator[None]:
    """Leave off where MLflow says that what was asked for is not there."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as e:
        if e.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            raise


def file_of(there: Any, latest: Prompt) -> str:
    """Return a registered version as the text of the file after `latest`, whose head it keeps where it says nothing.

    Raises InputError where it would not be that role's prompt.
    """
    where, template = f"MLflow version {there.version} of {latest.name}", there.template
    if isinstance(template, str) or [each.get("role") for each in template] != ["system", "user"]:
        raise InputError(f"{where}: must be two chat messages, system and user")
    if any("{%" in each["content"] for each in template):
        raise InputError(f"{where}: {{% %}} blocks are not known here")
    version, config = f"v{latest.number + 1:03}", there.model_config or {}
    system, user = (
        _VARIABLE.sub(r"${\1}", _plain(each["content"]).replace("$", escaped))
        for each, escaped in zip(template, ("$", "$$"), strict=True)
    )
    head: Json = {name: config[name] for name in ("temperature", "max_tokens") if name in config}
    head |= {"schema": _schema_name(there, latest, where), "why": " ".join((there.commit_message or "").split())[:200]}
    text = written(latest, version, system, user, head)
    prompt = parse_prompt(text, f"{latest.name}/{version}")
    check_variables(prompt, kinds.asking(prompt.name).variables[prompt.name])
    if not _same(there, prompt):
        raise InputError(f"{where}: '## user' may stand in no line of it")
    return text


def _schema_name(there: Any, latest: Prompt, where: str) -> str:
    """Return which replies a version asks for: the schema it brought is one that its role's replies are read by."""
    schema_of = kinds.asking(latest.name).schema_of
    for name in (latest.reply_schema, *get_args(ReplySchema)):
        if there.response_format in (None, schema_of(latest.replace(reply_schema=name))):
            return str(name)
    raise InputError(f"{where}: replies of its response_format would not be understood; keep that of {latest.version}")


def _tags(prompt: Prompt) -> dict[str, str]:
    return {"file_version": prompt.version, "sha256": prompt.sha256}


def _standings(files: Sequence[Prompt], known: Mapping[int, Any]) -> Iterator[Standing]:
    """Compare the files of a role with what is registered, number by number."""
    role, numbers = files[0].name, {prompt.number: prompt for prompt in files}
    for number in sorted({*numbers, *known}):
        prompt, there, version = numbers.get(number), known.get(number), f"v{number:03}"
        own = there is not None and there.tags.get("file_version") == version
        if there is None:
            yield Standing(role, version, number, State.DELETED)
        elif prompt is not None:
            changed = own and there.tags.get("sha256") != prompt.sha256
            same = State.SAME if _same(there, prompt) else State.TAKEN
            yield Standing(role, version, number, State.CHANGED if changed else same)
        elif own:
            yield Standing(role, version, number, State.ELSEWHERE)
        elif PLACEHOLDER not in there.tags:
            alike = _alike(there, files)
            yield Standing(role, alike.version if alike else "", number, State.PULLED if alike else State.THERE)


def _alike(there: Any, files: Sequence[Prompt]) -> Prompt | None:
    return next((prompt for prompt in files if _same(there, prompt)), None)


def _same(there: Any, prompt: Prompt) -> bool:
    """Return whether a registered version sends what a file sends."""
    template: Sequence[Mapping[str, str]] = [] if isinstance(there.template, str) else there.template
    texts = [(each["role"], _VARIABLE.sub(r"{{\1}}", _plain(each["content"]))) for each in template]
    return texts == [(each["role"], _plain(each["content"])) for each in messages_of(prompt)]


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
