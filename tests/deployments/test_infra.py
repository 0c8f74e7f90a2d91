"""What a container engine would run, without one: the compose file, the manifests, and their processes on this machine.

compose.yaml is checked twice: against the Compose specification's JSON schema where check-jsonschema is installed
(it ships the schema), and by what the schema cannot know: that each command exists with those options, that names of
services, volumes and variables are real, that nothing is published beyond this machine and no secret is written down.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from composed import COMPOSE, INFRA, OURS, SERVICES, environment, filled
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings as PrefectSettings

from deployments.cli import cli
from infra.sandbox.server import parse as parse_sandbox
from tasks.adapters.venue import client
from tasks.settings import PREFIX, ROOT, Settings

CONDITIONS = {"service_healthy", "service_completed_successfully", "service_started"}
GIVEN = {
    "POSTGRES_PASSWORD": "x1", "STORE_PASSWORD": "x2", "PREFECT_DB_PASSWORD": "x3", "MLFLOW_DB_PASSWORD": "x4",
    "REDIS_PASSWORD": "x5", "MLFLOW_PASSWORD": "x6", "PREFECT_AUTH": "admin:x7", "GRAFANA_PASSWORD": "x8",
    "PREFECT_ENCRYPTION_KEY": "x9",
}  # fmt: skip
SERVER = {"PREFECT_DB_PASSWORD", "REDIS_PASSWORD", "PREFECT_ENCRYPTION_KEY"}
HANDED = {  # who is handed what, in both kinds of deployment
    "postgres": {"POSTGRES_PASSWORD", "STORE_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD"},
    "redis": {"REDIS_PASSWORD"}, "prefect": SERVER | {"PREFECT_AUTH"}, "prefect-services": SERVER,
    "migrate": {"STORE_PASSWORD"},
    "mlflow": {"MLFLOW_DB_PASSWORD", "MLFLOW_PASSWORD"}, "deploy": {"PREFECT_AUTH"}, "metrics": {"STORE_PASSWORD"},
    "worker": {"STORE_PASSWORD", "PREFECT_AUTH", "MLFLOW_PASSWORD"}, "grafana": {"GRAFANA_PASSWORD"},
    "backup": {"STORE_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD"},
}  # fmt: skip
TALK = {  # who may be reached by whom
    "postgres": {"prefect", "prefect-services", "mlflow", "worker", "metrics"},
    "redis": {"prefect", "prefect-services"},
    "mlflow": {"worker"}, "prefect": {"prefect-services", "worker"},
}  # fmt: skip
SECRETS = re.compile(r"PASSWORD|SECRET|AUTH|_KEY|TOKEN")


# --- compose.yaml -------------------------------------------------------------------------------------------------


def test_compose_file_is_valid_by_the_compose_specification():
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, which ships the schema, is not installed")
    command = ("-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(INFRA / "compose.yaml"))
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def accepted(name: str, command: str, arguments: list[str]) -> None:
    """Let the command itself read its arguments."""
    assert command in cli.commands, f"{name}: quarterdeck has no command {command}"
    cli.commands[command].make_context(command, list(arguments))


@pytest.mark.parametrize("name", [name for name, service in OURS.items() if "entrypoint" not in service])
def test_services_of_our_image_start_with_a_command_that_takes_those_options(name):
    command, *arguments = filled(OURS[name]["command"], {})
    if command == "sandbox":
        parse_sandbox(arguments)
    else:
        accepted(name, command, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, service in OURS.items() if "entrypoint" in service])
def test_the_other_servers_know_every_option_they_are_started_with(name):
    *_, program = OURS[name]["entrypoint"]
    command = [part for part in OURS[name]["command"] if not part.startswith("-")]
    words = [part for part in command if re.fullmatch(r"[a-z]+", part)]
    options = {part.partition("=")[0] for part in OURS[name]["command"] if part.startswith("--")}
    done = subprocess.run(
        [sys.executable, "-m", program, *words, "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option not in done.stdout] == []


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_exists_and_can_become_true(name):
    waits = SERVICES[name].get("depends_on", {})
    for other, how in waits.items() if isinstance(waits, dict) else ((other, {}) for other in waits):
        condition = how.get("condition", "service_started")
        assert condition in CONDITIONS
        if condition == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        if condition == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_alone(name):
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


def test_no_secret_is_written_down():
    for name, service in SERVICES.items():
        for variable, value in environment(service).items():
            if SECRETS.search(variable):
                assert "${" in value, f"{name}: {variable} is written down"
            assert not re.search(r"://[^:/@]+:[^$@{][^@]*@", value), f"{name}: a password in {variable}"
        assert not re.search(r"(?<!\$)\$\{\w*(PASSWORD|AUTH|KEY)", str(service.get("command"))), (
            f"{name}: among arguments"
        )


def test_the_system_does_not_start_without_passwords():
    for must in GIVEN:
        assert f"${{{must}:?" in (INFRA / "compose.yaml").read_text()
        assert re.search(rf"^{must}=$", (ROOT / ".env.example").read_text(), re.MULTILINE), f"{must} has a default"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_handed_its_own_secrets_and_no_other(name):
    asked = set(re.findall(r"\$\{(\w+)", str(environment(SERVICES[name]))))
    assert asked & GIVEN.keys() == HANDED.get(name, set())
    files = [each["path"] for each in SERVICES[name].get("env_file", [])]
    assert files == (["../worker.env"] if name == "worker" else []), "the keys of venue and providers"
    assert "worker.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "worker.env" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reaches_what_it_needs_by_its_networks_and_stores_reach_nothing(name):
    networks = set(SERVICES[name]["networks"])
    for other, visitors in TALK.items():
        shared = networks & set(SERVICES[other]["networks"])
        if name in visitors:
            assert shared, f"{name} cannot reach {other}"
        elif other in ("postgres", "redis") and name not in (other, "migrate", "backup"):
            assert not shared, f"{name} reaches {other}"
    if name in ("postgres", "redis"):
        assert all(COMPOSE["networks"][each]["internal"] for each in networks), "a store that calls outside"


def test_redis_and_postgresql_are_set_up_with_passwords_that_no_argument_shows():
    command = SERVICES["redis"]["command"][-1]
    assert "requirepass $$REDISCLI_AUTH" in command
    assert environment(SERVICES["redis"])["REDISCLI_AUTH"] == "${REDIS_PASSWORD}"
    script = (INFRA / "postgres" / "databases.sql").read_text()
    roles = re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD :'(\w+)'", script)
    assert [role for role, _ in roles] == ["quarterdeck", "prefect", "mlflow"]
    read = dict(re.findall(r"\\getenv (\w+) (\w+)", script))
    assert {read[variable] for _, variable in roles} <= environment(SERVICES["postgres"]).keys()
    assert "--app-name=quarterdeck" in SERVICES["mlflow"]["command"], "MLflow behind our door"


def test_every_variable_that_is_set_is_one_somebody_reads():
    keys = {name for name in vars(client).values() if isinstance(name, str) and name.startswith(PREFIX)}
    ours = {PREFIX + field.upper() for field in Settings.model_fields} | keys
    prefects = set(_get_valid_setting_names(PrefectSettings)) | {
        "PREFECT_REDIS_MESSAGING_HOST",
        "PREFECT_REDIS_MESSAGING_PASSWORD",
    }
    prefects.add("PREFECT_SERVER_ENCRYPTION_KEY")  # read by Prefect's server, though no setting of its own
    for name, service in OURS.items():
        for variable in environment(service):
            known = ours if variable.startswith(PREFIX) else prefects
            assert variable in known or variable.startswith("MLFLOW_"), f"{name}: nobody reads {variable}"
    examples = "".join((ROOT / f"{name}.example").read_text() for name in (".env", "worker.env"))
    mentioned = set(re.findall(r"^#?(\w+)=", examples, re.MULTILINE))
    assert {name for name in mentioned if name.startswith(PREFIX)} <= ours | {"QUARTERDECK_VERSION"}


def test_settings_accept_what_the_containers_are_given(monkeypatch):
    for name in (name for name, service in OURS.items() if "QUARTERDECK_DATABASE_URL" in environment(service)):
        service = OURS[name]
        with monkeypatch.context() as patched:
            for variable, value in filled(environment(service), GIVEN).items():
                patched.setenv(variable, value)
            settings = Settings()
            assert settings.store_url == "postgresql://quarterdeck:x2@postgres/quarterdeck", name
            client._check_profile(settings, "bybit")  # the sandbox's name in the network is no stranger


def test_containers_of_our_image_are_not_root_and_cannot_write_outside_their_volumes():
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", dockerfile, re.MULTILINE)
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines(), "the image would hold the secrets"


def test_volumes_exist_and_no_replicas_share_one():
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (INFRA / source).exists() or source == "./grafana/dashboards", name
        if service.get("deploy", {}).get("replicas", 1) > 1:
            assert "volumes" not in service, f"{name}: one HOME has one `quarterdeck worker`"


def test_the_image_can_dump_the_server_it_is_composed_with():
    [client] = re.findall(r"postgresql-client-(\d+)", (INFRA / "Dockerfile").read_text())
    assert SERVICES["postgres"]["image"].startswith(f"postgres:{client}.")
    assert f"image: {SERVICES['postgres']['image']}\n" in (INFRA / "k8s" / "postgres.yaml").read_text()
    assert (INFRA / "k8s" / "databases.sql").read_text() == (INFRA / "postgres" / "databases.sql").read_text()


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders the manifests, is not installed")
    done = subprocess.run(["kubectl", "kustomize", INFRA / "k8s"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in manifests:
        if each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield each["metadata"]["name"], each["spec"]["template"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def named(manifests: list[dict[str, Any]], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in manifests if each["kind"] == kind}


def test_every_manifest_names_its_kind_and_lies_in_our_namespace(manifests):
    for each in manifests:
        assert {"apiVersion", "kind", "metadata"} <= set(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "quarterdeck"
    assert named(manifests, "Secret") == set(), "secrets are made by hand, never committed"
    [namespace] = [each for each in manifests if each["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_selectors_find_their_pods_and_services_have_somebody_behind_them(manifests):
    labels = [pod["metadata"]["labels"] for _, pod in pods(manifests)]
    for each in manifests:
        spec = each.get("spec", {})
        if each["kind"] in ("Deployment", "StatefulSet"):
            wanted = spec["selector"]["matchLabels"]
            assert wanted.items() <= spec["template"]["metadata"]["labels"].items()
        if each["kind"] == "Service":
            assert any(spec["selector"].items() <= found.items() for found in labels)


def test_pods_keep_the_restricted_standard(manifests):
    for name, pod in pods(manifests):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name


def test_what_a_container_refers_to_exists(manifests):
    maps = named(manifests, "ConfigMap")
    for name, pod in pods(manifests):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        templates = next(each for each in manifests if each["metadata"]["name"] == name and "spec" in each
                         and each["kind"] in ("Deployment", "StatefulSet", "Job"))["spec"]  # fmt: skip
        volumes |= {claim["metadata"]["name"] for claim in templates.get("volumeClaimTemplates", [])}
        for container in containers(pod):
            assert container["image"]
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
            for source in container.get("envFrom", []):
                whole = source.get("secretRef", {}).get("name")
                assert (name, whole) == ("worker", "worker") if whole else source["configMapRef"]["name"] in maps
            _check_environment(name, container)


def _check_environment(pod: str, container: dict[str, Any]) -> None:
    """A secret comes by reference; a $(NAME) is declared before it is used, or it would stay as it is."""
    seen = set[str]()
    for variable in container.get("env", []):
        value = variable.get("value", "")
        assert set(re.findall(r"\$\((\w+)\)", value)) <= seen, f"{pod}: {variable['name']} uses what is not yet set"
        if SECRETS.search(variable["name"]):
            assert "valueFrom" in variable or "$(" in value, pod
        seen.add(variable["name"])
    arguments = " ".join([*container.get("command", []), *container.get("args", [])])
    assert "PASSWORD" not in arguments, f"{pod}: a password among the arguments"


def test_commands_in_the_cluster_exist(manifests):
    for name, pod in pods(manifests):
        for container in containers(pod):
            if container["image"].startswith("quarterdeck") and "command" not in container:
                accepted(name, *container["args"][:1], container["args"][1:])


def test_variables_in_the_cluster_are_ones_somebody_reads(manifests):
    ours = {PREFIX + field.upper() for field in Settings.model_fields}
    given = {name for each in manifests if each["kind"] == "ConfigMap" for name in each["data"]}
    given |= {
        v["name"] for _, pod in pods(manifests) for container in containers(pod) for v in container.get("env", [])
    }
    assert {name for name in given if name.startswith(PREFIX)} <= ours


def test_a_container_is_handed_its_own_secrets_and_no_token_of_the_cluster(manifests):
    for name, pod in pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        for container in containers(pod):
            refs = [each["valueFrom"]["secretKeyRef"] for each in container.get("env", []) if "valueFrom" in each]
            known = {"services": "prefect-services"}.get(container["name"], container["name"])
            assert {ref["key"] for ref in refs} - {"QUARTERDECK_ALERT_URLS"} == HANDED[known], container["name"]
            assert "quarterdeck" not in {ref["name"] for ref in refs}, "one that holds them all"


def picks(selector: dict[str, Any], app: str) -> bool:
    expressions = [each["values"] for each in selector.get("matchExpressions", [])]
    return selector.get("matchLabels", {"app": app})["app"] == app and all(app in values for values in expressions)


def allowed(policies: list[dict[str, Any]], app: str, way: str, other: str) -> bool:
    """Whether a policy lets `other` come in to `app` (ingress, from), or `app` go out to it (egress, to)."""
    rules = [rule for spec in policies if picks(spec["podSelector"], app) for rule in spec.get(way, [])]
    peers = [peer for rule in rules for peer in rule["from" if way == "ingress" else "to"]]
    return any(picks(peer["podSelector"], other) for peer in peers if "podSelector" in peer)


def test_pods_talk_as_they_must_and_not_otherwise_in_both_directions(manifests):
    policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]
    [default] = [spec for spec in policies if spec["podSelector"] == {}]
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default
    assert {port["port"] for rule in default["egress"] for port in rule["ports"]} == {53}
    apps = {pod["metadata"]["labels"]["app"] for _, pod in pods(manifests)}
    needed = {
        name: visitors | ({"setup"} if name in ("postgres", "prefect") else set()) for name, visitors in TALK.items()
    }
    for app in apps:
        for other in apps - {app}:
            comes, goes = allowed(policies, app, "ingress", other), allowed(policies, other, "egress", app)
            assert (comes and goes) is (other in needed.get(app, set())), f"{other} -> {app}"
    outside = [spec for spec in policies if "ipBlock" in str(spec)]
    assert {app for app in apps for spec in outside if picks(spec["podSelector"], app)} == {
        "worker",
        "prefect-services",
    }
    assert all("10.0.0.0/8" in str(spec) for spec in outside), "not to what is private around the cluster"


def test_prometheus_asks_a_service_that_is_there():
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    for target in targets:
        host, port = target.split(":")
        assert port in SERVICES[host]["command"], target
    mounted = [
        Path(volume.split(":")[0]) for volume in SERVICES["prometheus"]["volumes"] + SERVICES["grafana"]["volumes"]
    ]
    assert all((INFRA / path).exists() for path in mounted if str(path).startswith("prometheus/"))


def test_images_of_others_are_named_by_digest():
    files = [INFRA / "Dockerfile", INFRA / "compose.yaml", *(INFRA / "k8s").glob("*.yaml")]
    named = [
        match[1]
        for file in files
        for line in file.read_text().splitlines()
        if (match := re.match(r"\s*(?:image:|FROM|COPY --from=)\s*(\S+)", line)) and "quarterdeck" not in match[1]
    ]
    assert len(named) >= 9
    assert [name for name in named if not re.fullmatch(r"[a-z./-]+:[\w.-]+@sha256:[0-9a-f]{64}", name)] == ["build"]
