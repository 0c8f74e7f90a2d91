"""The pages that are made from the code are current, and what the pages name exists."""

import re
import runpy
from pathlib import Path

import pytest

from tasks.core.types.alert import AlertKind
from tasks.core.types.limits import Limits
from tasks.core.types.record import CycleStatus
from tasks.core.types.verdict import Code

ROOT = Path(__file__).resolve().parents[1]
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", GENERATE["PAGES"])
def test_generated_page_is_current(name):
    current = GENERATE["PAGES"][name]()
    assert (ROOT / "docs" / name).read_text() == current, f"run `.venv/bin/python docs/generate.py` for {name}"


def test_every_setting_is_explained():
    assert GENERATE["unexplained"]() == []


def test_every_code_of_the_guard_is_explained_with_limits_that_exist():
    assert set(GENERATE["LIMITS_OF"]) == set(Code)
    assert {name for names in GENERATE["LIMITS_OF"].values() for name in names} <= set(Limits.model_fields)


def test_every_alert_and_status_is_in_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    assert [name for name in (*AlertKind, *CycleStatus) if f"`{name}`" not in runbook] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_pages_show_exist(page):
    from deployments.cli import cli

    commands = dict(cli.commands)
    del commands["sandbox"]  # its options are argparse's
    text = re.sub(r"\\\n\s*", "", page.read_text())
    for command, rest in re.findall(r"\bquarterdeck ([a-z][a-z-]+)([^`\n#|&]*)", text):
        if command in commands:
            names = _options(commands[command], rest)
            given = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", rest))
            assert given <= names, f"{page.name}: quarterdeck {command} has no {sorted(given - names)}"


def _options(command, rest):
    """Return the options of a command, or of the part of a group that is named next."""
    parts = getattr(command, "commands", {})
    named = next((parts[word] for word in rest.split() if word in parts), None)
    return {option for each in (command, named) if each for p in each.params for option in p.opts} | {"--help"}
