"""Prompt files on disk: `prompts/<role>/vNNN.md`."""

from pathlib import Path

from tasks.core.decision.prompt import Prompt, parse_prompt
from tasks.core.errors import InputError
from tasks.settings import ROOT

FOLDER = ROOT / "prompts"


def load_prompt(role: str, version: str | None = None, folder: Path = FOLDER) -> Prompt:
    """Read a role's prompt, the latest when no version is given; raises InputError saying what there is instead."""
    versions = sorted(path.stem for path in (folder / role).glob("v[0-9][0-9][0-9].md"))
    if not versions:
        raise InputError(f"no prompt for role {role} in {folder}")
    chosen = version or versions[-1]
    if chosen not in versions:
        raise InputError(f"no prompt {role}/{chosen}; there is {', '.join(versions)}")
    return _read(folder / role / f"{chosen}.md")


def list_prompts(folder: Path = FOLDER) -> list[Prompt]:
    """Read every prompt, by role and version; raises InputError for the first one that is malformed."""
    return [_read(path) for path in sorted(folder.glob("*/v[0-9][0-9][0-9].md"))]


def _read(path: Path) -> Prompt:
    name = f"{path.parent.name}/{path.stem}"
    try:
        return parse_prompt(path.read_bytes().decode(), name)
    except UnicodeDecodeError as e:
        raise InputError(f"prompt {name}: not UTF-8: {e}") from e
