"""Prompts in a real MLflow: numbers and words as in the files, edits made there pulled, and nothing written over."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from free_ports import nobody
from hypothesis import given
from hypothesis import strategies as st

from deployments.cli import cli
from tasks.adapters.files import prompts as prompt_files
from tasks.adapters.files.prompts import aliases, files_of, list_prompts, load_prompt, save_prompt
from tasks.adapters.mlflow.prompt_registry import PromptRegistry, State, file_of, messages_of
from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.decision import kinds
from tasks.core.decision.actions import wire_schema
from tasks.core.decision.llm.prompt import Prompt, parse_prompt
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.settings import settings
from tests.closing import close_stores

SINGLE = files_of("single")
ENTRY = "quarterdeck.single"


@pytest.fixture
def registry(url: str) -> PromptRegistry:
    """The registry of the tests' server, without a prompt."""
    found = PromptRegistry(MlflowServer(url, "test"))
    for each in found.server.client.search_prompts():
        found.server.client.delete_prompt(each.name)
    return found


def made_there(registry: PromptRegistry, change: Callable[[str], str], **more: Any) -> int:
    """Make a version as MLflow's page does: the newest file's messages, the user's other; no tag of ours."""
    system, user = messages_of(SINGLE[-1])
    template = [system, {"role": "user", "content": change(user["content"])}]
    made = registry.server.client.register_prompt(ENTRY, template, **more)
    return int(made.version)


def states(registry: PromptRegistry, files: list[Prompt]) -> list[tuple[str, int, State]]:
    return [(each.version, each.number, each.state) for each in registry.sync(files)]


def version_of(prompt: Prompt, number: int, more: str = "") -> Prompt:
    text = prompt.text.replace(f"version: {prompt.version}", f"version: v{number:03}") + more
    return parse_prompt(text, f"{prompt.name}/v{number:03}")


WORDS = st.text("ab$}{ \n%", max_size=30).filter(lambda text: "{{" not in text and "{%" not in text)


@given(WORDS, st.sampled_from(["{{pair}}", "{{ pair }}"]))
def test_what_is_written_in_mlflow_is_sent_as_it_stands_there(words, variable):
    class There:
        version, tags, response_format, model_config, commit_message = 9, dict[str, str](), None, None, "why"
        template = [
            {"role": "system", "content": "Be brief, it is $5."},
            {"role": "user", "content": f"{words}|{variable} $1"},
        ]

    made = parse_prompt(file_of(There, SINGLE[-1]), "single/v004")
    sent = [each["content"] for each in messages_of(made)]
    assert sent == ["Be brief, it is $5.", f"{words}|{{{{pair}}}} $1".strip()]
    assert (made.variables, made.why, made.ref.max_tokens) == (("pair",), "why", SINGLE[-1].ref.max_tokens)


@pytest.mark.slow
def test_every_file_is_there_under_its_own_number_as_what_a_model_is_asked_and_why(registry):
    registry.models = "openai/gpt-4o, anthropic/claude-3-5-sonnet"
    files = list_prompts()
    assert {each.state for each in registry.sync(files)} == {State.REGISTERED}
    assert {each.state for each in registry.sync(files)} == {State.SAME}
    for prompt in files:
        there = registry.server.client.get_prompt_version(f"quarterdeck.{prompt.name}", str(prompt.number))
        assert [each["role"] for each in there.template] == ["system", "user"]
        assert set(prompt.variables) == there.variables
        assert "---" not in there.template[0]["content"][:10]
        assert there.commit_message == prompt.why != ""
        assert there.response_format == kinds.asking(prompt.name).schema_of(prompt)
        assert there.model_config == {
            "model_name": registry.models, "temperature": 0.0, "max_tokens": prompt.ref.max_tokens,
        }  # fmt: skip
        assert there.tags == {"file_version": prompt.version, "sha256": prompt.sha256}


@pytest.mark.slow
def test_the_numbers_of_files_that_are_gone_are_held_and_entries_of_before_are_left_alone(registry):
    old = registry.server.client.register_prompt("quarterdeck-single", "of a release before", tags={"sha256": "x"})
    assert states(registry, [SINGLE[0], SINGLE[2]]) == [
        ("v001", 1, State.REGISTERED), ("v003", 3, State.REGISTERED),
    ]  # fmt: skip
    assert "no file single/v002" in str(registry.server.client.get_prompt_version(ENTRY, "2").template)
    with pytest.raises(InputError, match="version 2 cannot be pulled; made in MLflow and in no file yet: none"):
        registry.pull([SINGLE[0], SINGLE[2]], 2)
    assert states(registry, SINGLE)[1] == ("v002", 2, State.TAKEN)
    assert registry.server.client.get_prompt_version("quarterdeck-single", "1").template == old.template


@pytest.mark.slow
def test_a_published_file_that_changed_is_named_and_neither_registered_nor_given_an_alias(registry):
    registry.sync(SINGLE[:2])
    changed = version_of(SINGLE[0], 1, "Sneaky.\n")
    assert states(registry, [changed, SINGLE[1]])[0] == ("v001", 1, State.CHANGED)
    with pytest.raises(InputError, match=r"single/v001 is no longer the file that MLflow version 1 was made of"):
        registry.set_alias([changed, SINGLE[1]], "v001", "champion")
    assert messages_of(SINGLE[0]) == registry.server.client.get_prompt_version(ENTRY, "1").template


@pytest.mark.slow
def test_an_edit_made_there_is_named_then_pulled_and_from_then_on_the_same(registry, tmp_path):
    registry.sync(SINGLE)
    number = made_there(registry, lambda text: f"{text}\nIt costs $12.", commit_message="Say\nwhat it costs.",
                        model_config={"max_tokens": 1300}, response_format=wire_schema())  # fmt: skip
    assert states(registry, SINGLE)[-1] == ("", number, State.THERE)
    pulled, text = registry.pull(SINGLE)
    (tmp_path / "single").mkdir()
    made = save_prompt(text, "single", "v004", tmp_path)
    assert (pulled, made.number, made.why, made.ref.max_tokens) == (4, 4, "Say what it costs.", 1300)
    assert made.user.endswith("It costs $$12.")
    assert states(registry, [*SINGLE, made])[-1] == ("v004", 4, State.SAME)
    assert registry.server.client.get_prompt_version(ENTRY, "4").tags["sha256"] == made.sha256
    with pytest.raises(InputError, match="nothing to pull; made in MLflow and in no file yet: none"):
        registry.pull([*SINGLE, made])
    with pytest.raises(InputError, match="File exists"):
        save_prompt(text, "single", "v004", tmp_path)
    assert states(registry, SINGLE)[-1] == ("v004", 4, State.ELSEWHERE), "as on a machine without the file"


@pytest.mark.slow
def test_a_number_that_was_taken_there_is_said_and_what_took_it_can_be_pulled(registry):
    registry.sync(SINGLE[:2])
    assert made_there(registry, lambda text: f"{text}\nOther words.") == 3
    assert states(registry, SINGLE)[2] == ("v003", 3, State.TAKEN)
    with pytest.raises(TrackingUnavailable, match="single v003 is not in MLflow: its version 3 has another text"):
        registry.set_alias(SINGLE, "v003", "champion")
    number, text = registry.pull(SINGLE)
    made = parse_prompt(text, "single/v004")
    assert (number, made.user.endswith("Other words.")) == (3, True)
    assert states(registry, [*SINGLE, made])[2:] == [("v003", 3, State.TAKEN), ("v004", 4, State.REGISTERED)]
    registry.server.client.delete_prompt_version(ENTRY, "3")
    assert states(registry, [*SINGLE, made])[2:] == [("v003", 3, State.DELETED), ("v004", 4, State.SAME)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (lambda text: f"{text} {{{{weather}}}}", {}, "unknown variable weather"),
        (lambda text: f"{text} {{% if pair %}}x{{% endif %}}", {}, "blocks are not known here"),
        (lambda text: text, {"response_format": {"type": "object"}}, "response_format would not be understood"),
        (lambda text: f"{text}.", {"model_config": {"temperature": 9}}, "temperature"),
    ],
)
def test_an_edit_that_is_no_prompt_of_its_role_is_not_pulled(registry, change, more, said):
    registry.sync(SINGLE)
    made_there(registry, lambda text: change(f"{text}\nMore."), **more)
    with pytest.raises(InputError, match=said):
        registry.pull(SINGLE)


@pytest.mark.slow
def test_a_text_that_is_no_chat_is_not_pulled(registry):
    registry.sync(SINGLE)
    registry.server.client.register_prompt(ENTRY, "Just say {{pair}}")
    with pytest.raises(InputError, match="must be two chat messages, system and user"):
        registry.pull(SINGLE)


@pytest.mark.slow
def test_versions_are_found_on_every_page_and_how_models_are_asked_follows_the_settings(registry, monkeypatch):
    monkeypatch.setattr("tasks.adapters.mlflow.prompt_registry.PAGE", 2)
    registry.sync(SINGLE)
    registry.models, registry.parameters = "openai/o3", lambda prompt: {"max_tokens": prompt.max_tokens + 4000}
    assert {state for _, _, state in states(registry, SINGLE)} == {State.SAME}
    there = registry.versions("single")
    assert sorted(there) == [1, 2, 3]
    assert there[1].model_config == {"model_name": "openai/o3", "max_tokens": 5200}


@pytest.mark.slow
def test_what_another_machine_registers_meanwhile_is_registered_once(registry):
    held: list[str] = []

    @contextmanager
    def other_machine(name: str) -> Iterator[None]:
        held.append(name)
        PromptRegistry(registry.server).sync(SINGLE)
        yield

    assert {state for _, _, state in states(PromptRegistry(registry.server, other_machine), SINGLE)} == {
        State.REGISTERED
    }
    assert (held, sorted(registry.versions("single"))) == (["mlflow:quarterdeck.single"], [1, 2, 3])


@pytest.mark.slow
def test_a_version_that_somebody_makes_in_that_very_moment_keeps_its_number(registry):
    registry.sync(SINGLE[:2])

    def meanwhile(_: object) -> dict[str, Any]:
        made_there(registry, lambda text: f"{text}\nMeanwhile.")
        return {}

    registry.parameters = meanwhile
    with pytest.raises(TrackingUnavailable, match="gave single/v003 the number 4: sync again"):
        registry.sync(SINGLE)
    assert sorted(registry.versions("single")) == [1, 2, 3]
    assert states(registry, SINGLE)[2] == ("v003", 3, State.TAKEN)


# --- the commands


@pytest.fixture
def quarterdeck(tmp_path, monkeypatch, capsys):
    """Run `quarterdeck prompts ...` on a HOME and prompt files of its own; returns what it printed on stdout."""
    folder = tmp_path / "prompts"
    for prompt in SINGLE:
        (folder / "single").mkdir(parents=True, exist_ok=True)
        (folder / "single" / f"{prompt.version}.md").write_text(prompt.text)
    for reads in (load_prompt, list_prompts, files_of, save_prompt):
        monkeypatch.setattr(reads, "__defaults__", (*reads.__defaults__[:-1], folder))
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path))

    def run(*arguments: str, mlflow: str) -> str:
        monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", mlflow)
        settings.cache_clear()
        cli.main(["prompts", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    with nobody() as silent:
        monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", f"http://{silent}/api")  # nobody is told
        yield run
    close_stores()
    settings.cache_clear()


def named(alias: str) -> str | None:
    to = aliases().get("single", {}).get(alias)
    return to and to.version


@pytest.mark.slow
def test_promoting_moves_the_alias_here_and_there_and_without_mlflow_here_alone(quarterdeck, registry):
    url = registry.server.url
    promote = ("promote", "single", "v003", "--json", "--alias")
    assert json.loads(quarterdeck(*promote, "champion", mlflow=url))["version"] == "v003"
    assert (named("champion"), registry.alias("single", "champion")) == ("v003", 3)
    with nobody() as gone:
        quarterdeck(*promote, "challenger", mlflow=f"http://{gone}")
    assert (named("challenger"), registry.alias("single", "challenger")) == ("v003", 0)
    assert "single challenger is v003" in quarterdeck("sync", mlflow=url)
    assert registry.alias("single", "challenger") == 3
    with pytest.raises(InputError, match="no prompt single/v999; there is v001"):
        quarterdeck("promote", "single", "v999", "--alias", "champion", mlflow=url)


@pytest.mark.slow
def test_sync_says_what_differs_and_pull_writes_the_next_file_and_lists_it(quarterdeck, registry, tmp_path):
    url = registry.server.url
    quarterdeck("promote", "single", "v003", "--alias", "champion", mlflow=url)
    made_there(registry, lambda text: f"{text}\nMore.")
    registry.server.client.set_prompt_alias(ENTRY, "champion", 4)
    registry.server.client.set_prompt_alias(ENTRY, "challenger", 4)
    said = quarterdeck("sync", mlflow=url).splitlines()
    assert said[3:] == [
        "single: MLflow version 4 was made there: quarterdeck prompts pull single --version 4",
        "single champion is v003, in MLflow it was version 4",
        "single: MLflow calls its version 4 challenger, and nobody here does: prompts promote",
    ]
    assert load_prompt("single").version == "v003", "what was made in MLflow is not used"
    assert quarterdeck("pull", "single", mlflow=url).splitlines() == [
        "MLflow version 4 of single is prompts/single/v004.md now", "single v004 is MLflow version 4",
    ]  # fmt: skip
    assert (tmp_path / "prompts" / "single" / "v004.md").read_text().endswith("\nMore.\n")
    listed = [json.loads(line) for line in quarterdeck("list", "--json", mlflow=url).splitlines()]
    assert [each["version"] for each in listed] == ["v001", "v002", "v003", "v004"]
    made_there(registry, lambda text: f"{text}\nA fifth.")
    made_there(registry, lambda text: f"{text}\nA sixth.")
    assert quarterdeck("pull", "single", mlflow=url).splitlines() == [
        "MLflow version 6 of single is prompts/single/v005.md now: v004 was the newest file, so the numbers differ",
        "single v005 is not in MLflow: its version 5 has another text: quarterdeck prompts pull single --version 5",
        "single: MLflow version 6 was made there, and is v005 here",
    ]


@pytest.mark.slow
def test_a_published_version_that_changed_is_exit_2_and_what_else_there_is_is_synced(quarterdeck, registry, tmp_path):
    url = registry.server.url
    quarterdeck("sync", mlflow=url)
    (tmp_path / "prompts" / "single" / "v001.md").write_text(f"{SINGLE[0].text}Sneaky.\n")
    (tmp_path / "prompts" / "single" / "v004.md").write_text(version_of(SINGLE[2], 4, "New.\n").text)
    with pytest.raises(InputError, match="restore the file and save the change as a new version"):
        quarterdeck("sync", mlflow=url)
    assert sorted(registry.versions("single")) == [1, 2, 3, 4]


def test_without_mlflow_there_is_nothing_to_sync_or_pull(quarterdeck):
    for command in (["sync"], ["pull", "single"]):
        with pytest.raises(InputError, match="QUARTERDECK_MLFLOW_URL is empty"):
            quarterdeck(*command, mlflow="")


def test_every_published_version_says_why_it_is_there():
    assert all(prompt.why for prompt in list_prompts())
    assert Path(prompt_files.FOLDER / "why.yaml").is_file()
