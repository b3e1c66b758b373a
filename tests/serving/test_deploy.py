"""What `deploy/` says fits the code: settings, commands, paths, ports, times, extras."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from rerank_plugins.cli.app import app as cli
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.settings import RerankSettings, ScorerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.suffix != ".txt")
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
DEFAULT = ServerSettings(models=("bundled",))


def settings_named(text: str) -> set[str]:
    return set(re.findall(r"\bRERANK_[A-Z_]*[A-Z]\b", text))


def known() -> set[str]:
    classes = {"RERANK_SERVER_": [ServerSettings], "RERANK_": [ScorerSettings, RerankSettings]}
    return {
        f"{prefix}{name}".upper()
        for prefix, found in classes.items()
        for settings in found
        for name in settings.model_fields
    }


def manifests() -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def container() -> dict[str, Any]:
    (found,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


def environment() -> dict[str, str]:
    """What the manifest says itself; the rest comes from the cluster."""
    return {entry["name"]: entry["value"] for entry in container()["env"] if "value" in entry}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def unit() -> dict[str, list[str]]:
    lines = re.findall(r"^(\w+)=(.*)$", (DEPLOY / "rerank-plugins.service").read_text(), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for name, value in lines:
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_exist(path: Path) -> None:
    assert settings_named(path.read_text()) <= known()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_and_their_options_exist(path: Path) -> None:
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(
        r"(?:^|/bin/|`)rerank-plugins ([a-z][\w-]+)(.*)", path.read_text(), flags=re.MULTILINE
    ):
        assert name in commands
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options


def test_the_manifest_asks_paths_and_ports_that_are_there() -> None:
    paths = set(create_app(DEFAULT).openapi()["paths"])
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert container()["ports"][0]["containerPort"] == DEFAULT.port
    assert container()["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert container()["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert {"/ready", "/health", "/metrics"} <= paths
    mounted = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    keys = environment()["RERANK_SERVER_KEYS_FILE"]
    assert Path(keys).name in manifests()["Secret"]["stringData"]


def test_the_manifest_s_keys_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(manifests()["Secret"]["stringData"]["keys.txt"])
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RERANK_SERVER_KEYS_FILE", str(keys))
    monkeypatch.setenv("RERANK_SERVER_HOST", "0.0.0.0")
    settings = ServerSettings()
    settings.check_exposure()
    create_app(settings)


def test_a_pod_has_cores_of_its_own_and_as_many_threads() -> None:
    resources = container()["resources"]
    assert resources["requests"] == resources["limits"], "or it is not Guaranteed"
    assert int(resources["limits"]["cpu"]) >= 1, "whole ones"
    threads = {
        entry["name"]: entry.get("valueFrom") for entry in container()["env"] if "THREADS" in entry["name"]
    }
    follows = {"resourceFieldRef": {"resource": "limits.cpu"}}
    assert threads == {"OMP_NUM_THREADS": follows, "RAYON_NUM_THREADS": follows}


def test_everything_selects_the_same_pods() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert (
        found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
        == found["Deployment"]["metadata"]["name"]
    )


def test_nobody_is_killed_while_draining() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    pause = float(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(environment()["RERANK_SERVER_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > drain + pause
    service = compose()["services"]["rerank"]
    drain = float(service["environment"]["RERANK_SERVER_DRAIN_SECONDS"])
    assert float(service["stop_grace_period"].rstrip("s")) > drain
    (drain_line,) = [line for line in unit()["Environment"] if "DRAIN" in line]
    assert float(unit()["TimeoutStopSec"][0]) > float(drain_line.partition("=")[2])


def test_compose_builds_what_is_there_and_keeps_what_is_declared() -> None:
    found = compose()
    service = found["services"]["rerank"]
    build = service["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert service["ports"] == [f"127.0.0.1:8000:{DEFAULT.port}"]
    declared = set(found["volumes"])
    for each in found["services"].values():
        for volume in each["volumes"]:
            source = volume.partition(":")[0]
            assert source in declared or (DEPLOY / source).is_file()
        assert set(each["secrets"]) <= set(found["secrets"])
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"rerank:{DEFAULT.port}"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_and_installs_what_is_there(path: Path) -> None:
    text = path.read_text()
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, flags=re.MULTILINE)
        for name in line.split()
    ]
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r'"\.\[(.*?)\]"', text)
    assert set(named.split(",")) <= set(extras)
    assert text.count("--constraint constraints.txt") == text.count("pip install")
    assert f"EXPOSE {DEFAULT.port}\n" in text
    assert f"RERANK_SERVER_PORT={DEFAULT.port}\n" in text
    assert re.search(r"^USER [1-9]\d*:", text, flags=re.MULTILINE)
    assert "/health" in text.partition("HEALTHCHECK")[2]
    # A tag that does not move.
    assert all(
        re.search(r":\d+\.\d+\.\d+", image) for image in re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    )


def test_the_unit_starts_the_server_with_the_keys_it_loads() -> None:
    found = unit()
    assert found["ExecStart"] == ["/opt/rerank-plugins/bin/rerank-plugins serve"]
    name, _, path = found["LoadCredential"][0].partition(":")
    assert f"RERANK_SERVER_KEYS_FILE=%d/{name}" in found["Environment"]
    assert path in (DEPLOY / "README.md").read_text()


def test_the_readme_names_every_file() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", (DEPLOY / "README.md").read_text()):
        assert (DEPLOY / link).exists(), link
    linked = set(re.findall(r"\]\(([\w.-]+)\)", (DEPLOY / "README.md").read_text()))
    assert linked == {path.name for path in FILES} - {"README.md"}
