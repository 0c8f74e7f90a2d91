"""Prompts as files: YAML front matter, a static `## system` part, then a `## user` part with `${variables}`.

The system part comes first and never varies, so that providers' prompt caches hit. Everything that can be wrong with
a file is found when it is parsed, before any call. Reading files is `adapters.files.prompts`; a published version never
changes, and `PromptRef.sha256` proves it.
"""

import hashlib
import re
from collections.abc import Mapping
from string import Template
from typing import Literal

import yaml
from pydantic import Field

from tasks.core.types import Dto, InputError, PromptRef, Texts, read_dto

_FILE = re.compile(r"---\n(?P<front>.*?)\n---\n\s*## system\n(?P<system>.*?)\n## user\n(?P<user>.*)", re.DOTALL)


ReplySchema = Literal["decision", "portfolio", "analysis", "proposal", "plan", "review", "assessment", "none"]


class Lineage(Dto):
    """Where an optimised version comes from. R a moment over doing nothing, on the moments it was chosen by."""

    parents: Texts  # of all roles that were optimised together
    moments: str  # NAME@VERSION
    model: str
    reflection_model: str
    tried: int  # candidates, on these days
    score_r: float
    parent_score_r: float


class _FrontMatter(Dto):
    role: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: str = Field(pattern=r"^v[0-9]{3}$")
    reply_schema: ReplySchema = Field(alias="schema")
    variables: Texts
    temperature: float = Field(ge=0, le=2, allow_inf_nan=False)
    seed: int | None
    max_tokens: int = Field(ge=1, le=100_000)
    why: str = ""
    lineage: Lineage | None = None


class Prompt(Dto):
    """One version of a role's prompt."""

    ref: PromptRef
    reply_schema: ReplySchema  # what its role answers; where that has two forms, which
    variables: Texts
    system: str
    user: str
    text: str  # the whole file, as on disk
    why: str = ""  # there is this version

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def version(self) -> str:
        return self.ref.version

    @property
    def number(self) -> int:
        return int(self.version[1:])

    @property
    def sha256(self) -> str:
        return self.ref.sha256


def parse_prompt(text: str, name: str) -> Prompt:
    """Read one prompt file's `text`; raises InputError naming the file (`single/v001`) and what is wrong with it."""
    parts = _FILE.fullmatch(text)
    if parts is None:
        raise InputError(f"prompt {name}: must be front matter between --- lines, then '## system', then '## user'")
    try:
        document = yaml.safe_load(parts["front"])
    except yaml.YAMLError as e:
        raise InputError(f"prompt {name}: front matter is not YAML: {' '.join(str(e).split())}") from e
    front = read_dto(_FrontMatter, document, f"prompt {name}: front matter")
    prompt = Prompt.of(
        front,
        ref=PromptRef.of(front, name=front.role, sha256=hashlib.sha256(text.encode()).hexdigest()),
        system=parts["system"].strip(),
        user=parts["user"].strip(),
        text=text,
    )
    _check_body(prompt, name)
    return prompt


def written(like: Prompt, version: str, system: str, user: str, head: Mapping[str, object]) -> str:
    """Return the file of another version: these parts under the head of `like`, but for what `head` says."""
    parts = _FILE.fullmatch(like.text)
    assert parts is not None  # it was parsed
    front = yaml.safe_load(parts["front"])
    front.pop("lineage", None)  # of `like` alone
    front |= dict(head) | {"version": version}
    front["variables"] = list(dict.fromkeys(Template(user).get_identifiers()))
    dumped = yaml.safe_dump(front, sort_keys=False, default_flow_style=None, allow_unicode=True, width=116)
    return f"---\n{dumped}---\n## system\n{system}\n\n## user\n{user}\n"


def render(prompt: Prompt, variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the messages to send; raises InputError naming the first variable that has no value."""
    try:
        user = Template(prompt.user).substitute(variables)
    except KeyError as e:
        raise InputError(f"prompt {prompt.name}/{prompt.version}: no value for variable {e.args[0]}") from e
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]


def check_variables(prompt: Prompt, known: frozenset[str]) -> None:
    """Raise InputError when `prompt` wants a variable its decider does not have."""
    for unknown in sorted(set(prompt.variables) - known):
        where = f"prompt {prompt.name}/{prompt.version}"
        raise InputError(f"{where}: unknown variable {unknown}, must be one of {', '.join(sorted(known))}")


def _check_body(prompt: Prompt, name: str) -> None:
    if name != (own := f"{prompt.name}/{prompt.version}"):
        raise InputError(f"prompt {name}: its front matter says {own}")
    if not prompt.system or not prompt.user:
        raise InputError(f"prompt {name}: '## system' and '## user' must both say something")
    if "${" in prompt.system:
        raise InputError(f"prompt {name}: '## system' must be static, move its ${{...}} to '## user'")
    template = Template(prompt.user)
    if not template.is_valid():
        raise InputError(f"prompt {name}: a $ in '## user' is neither ${{variable}} nor $$")
    used = set(template.get_identifiers())
    for variable in sorted(used - set(prompt.variables)):
        raise InputError(f"prompt {name}: unknown variable {variable}, not in its front matter")
    for variable in sorted(set(prompt.variables) - used):
        raise InputError(f"prompt {name}: variable {variable} is declared but not used")
