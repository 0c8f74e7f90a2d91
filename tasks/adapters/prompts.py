"""Prompt files on disk, `prompts/<role>/vNNN.md`, and which of them is used: HOME/prompts.json.

That file says, by role, which version is `champion` (what is used where no version is named; else the latest) and
which is `challenger`. MLflow has the same aliases, but a live cycle must not depend on MLflow.
"""

import json
import os
from difflib import unified_diff
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.core.decision.prompt import Prompt, parse_prompt
from tasks.core.errors import InputError
from tasks.settings import ROOT, settings

FOLDER = ROOT / "prompts"
CHAMPION, CHALLENGER = "champion", "challenger"
Aliases = dict[str, dict[str, str]]
_ALIASES: TypeAdapter[Aliases] = TypeAdapter(Aliases)


def load_prompt(role: str, version: str | None = None, folder: Path = FOLDER) -> Prompt:
    """Read a role's prompt; `version` may be an alias, and without one the champion is read, else the latest.

    Raises InputError saying what there is instead.
    """
    versions = sorted(path.stem for path in (folder / role).glob("v[0-9][0-9][0-9].md"))
    if not versions:
        raise InputError(f"no prompt for role {role} in {folder}")
    chosen = aliases().get(role, {}).get(version or CHAMPION) or version or versions[-1]
    if chosen not in versions:
        raise InputError(f"no prompt {role}/{chosen}; there is {', '.join(versions)}")
    return _read(folder / role / f"{chosen}.md")


def list_prompts(folder: Path = FOLDER) -> list[Prompt]:
    """Read every prompt, by role and version; raises InputError for the first one that is malformed."""
    return [_read(path) for path in sorted(folder.glob("*/v[0-9][0-9][0-9].md"))]


def aliases() -> Aliases:
    """Return which version each alias names, by role; nothing where none was ever set."""
    path = _aliases_file()
    try:
        return _ALIASES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as e:
        shape = '{"single": {"champion": "v001"}}'
        raise InputError(f"{path} is not what `quarterdeck prompts promote` writes, such as {shape}: {e}") from e


def set_alias(prompt: Prompt, alias: str) -> None:
    """Let `alias` of the prompt's role name this version from now on."""
    known = aliases()
    known.setdefault(prompt.name, {})[alias] = prompt.version
    path = _aliases_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f".{os.getpid()}.tmp")
    whole.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    whole.replace(path)  # a cycle that starts now reads the old file or the new one, never half of one


def diff_prompts(role: str, old: str, new: str, folder: Path = FOLDER) -> str:
    """Return what changed between two versions as a unified diff; nothing when they are the same."""
    before, after = load_prompt(role, old, folder), load_prompt(role, new, folder)
    lines = unified_diff(
        before.text.splitlines(), after.text.splitlines(),
        f"{role}/{before.version}", f"{role}/{after.version}", lineterm="",
    )  # fmt: skip
    return "\n".join(lines)


def _aliases_file() -> Path:
    return settings().home / "prompts.json"


def _read(path: Path) -> Prompt:
    name = f"{path.parent.name}/{path.stem}"
    try:
        return parse_prompt(path.read_bytes().decode(), name)
    except UnicodeDecodeError as e:
        raise InputError(f"prompt {name}: not UTF-8: {e}") from e
