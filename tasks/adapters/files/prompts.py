"""Prompt files on disk, `prompts/<role>/vNNN.md`, and which of them is used: the aliases in the database.

They say, by role, which version is `champion` (what is used where no version is named; else the latest) and which is
`challenger`. They lie in the database, so that workers on many machines use the same ones; MLflow has them too, but a
live cycle must not depend on MLflow.
"""

import re
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tasks.core.decision.llm.prompt import Prompt, parse_prompt
from tasks.core.errors import InputError
from tasks.settings import ROOT, settings

if TYPE_CHECKING:
    from tasks.adapters.store.prompts import Alias

FOLDER = ROOT / "prompts"
CHAMPION = "champion"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def load_prompt(role: str, version: str | None = None, folder: Path = FOLDER) -> Prompt:
    """Read a role's prompt; `version` may be an alias, and without one the champion is read, else the latest.

    Raises InputError saying what there is instead, or that the file is not the one that an alias was set on.
    """
    for what, name in (("role", role), ("version", version or CHAMPION)):
        if not NAME.fullmatch(name):
            raise InputError(f"prompt {what} {name!r} is no name of one: use letters, digits, - and _")
    versions = sorted(path.stem for path in (folder / role).glob("v[0-9][0-9][0-9].md"))
    if not versions:
        raise InputError(f"no prompt for role {role} in {folder}")
    named = None if version in versions else aliases().get(role, {}).get(version or CHAMPION)
    chosen = named.version if named else version or versions[-1]
    if chosen not in versions:
        raise InputError(f"no prompt {role}/{chosen}; there is {', '.join(versions)}")
    prompt = _read(folder / role / f"{chosen}.md")
    if named and named.sha256 != prompt.sha256:
        raise InputError(
            f"prompt {role}/{chosen} has sha256 {prompt.sha256[:12]}, but the {version or CHAMPION} was set on "
            f"{named.sha256[:12]}: bring this machine's prompts up to date"
        )
    return prompt


def list_prompts(folder: Path = FOLDER) -> list[Prompt]:
    """Read every prompt, by role and version; raises InputError for the first one that is malformed.

    Those that were published before their head could say why they are there have it from why.yaml.
    """
    known = folder / "why.yaml"
    why = yaml.safe_load(known.read_text(encoding="utf-8")) if known.is_file() else {}
    found = [_read(path) for path in sorted(folder.glob("*/v[0-9][0-9][0-9].md"))]
    return [prompt.replace(why=prompt.why or why.get(str(prompt.ref), "")) for prompt in found]


def files_of(role: str, folder: Path = FOLDER) -> list[Prompt]:
    """Read every version of a role's prompt, oldest first; raises InputError where there is none."""
    if not (found := [prompt for prompt in list_prompts(folder) if prompt.name == role]):
        raise InputError(f"no prompt for role {role} in {folder}")
    return found


def save_prompt(text: str, role: str, version: str, folder: Path = FOLDER) -> Prompt:
    """Write a version that is not there yet; raises InputError where it is, or cannot be written."""
    prompt, path = parse_prompt(text, f"{role}/{version}"), folder / role / f"{version}.md"
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}") from e
    return prompt


def aliases() -> "dict[str, dict[str, Alias]]":
    """Return which version each alias names, by role; nothing where none was ever set. Makes no database."""
    url = settings().store_url
    from tasks.adapters.store import exists
    from tasks.adapters.store.store import opened

    return opened(url).prompts.aliases() if exists(url) else {}


def diff_prompts(role: str, old: str, new: str, folder: Path = FOLDER) -> str:
    """Return what changed between two versions as a unified diff; nothing when they are the same."""
    before, after = load_prompt(role, old, folder), load_prompt(role, new, folder)
    lines = unified_diff(
        before.text.splitlines(),
        after.text.splitlines(),
        f"{role}/{before.version}",
        f"{role}/{after.version}",
        lineterm="",
    )
    return "\n".join(lines)


def _read(path: Path) -> Prompt:
    name = f"{path.parent.name}/{path.stem}"
    try:
        return parse_prompt(path.read_bytes().decode(), name)
    except UnicodeDecodeError as e:
        raise InputError(f"prompt {name}: not UTF-8: {e}") from e
