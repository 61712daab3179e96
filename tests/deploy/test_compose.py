"""The compose file names commands, variables, ports and paths that exist, and publishes nothing beyond this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ml.http.server import GRACE_SECONDS
from orchestration.serve import PORT, TOKEN
from tests.helpers.paths import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "evergreen"}


def words_of(name: str) -> list[str]:
    return [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in OURS[name]["command"]]


@pytest.mark.parametrize("name", [name for name in OURS if OURS[name]["command"][0] == "python"])
def test_commands_are_modules_that_take_the_arguments(name: str) -> None:
    words = words_of(name)
    assert words[1] == "-m" and (ROOT / f"{words[2].replace('.', '/')}.py").exists()
    main = import_module(words[2]).main
    assert isinstance(main, click.Command)
    assert main.make_context(words[2], words[3:]).params["dataset"] == "synthetic"


@pytest.mark.parametrize("name", [name for name in OURS if OURS[name]["command"][0] != "python"])
def test_other_commands_are_those_of_installed_packages(name: str) -> None:
    words = words_of(name)
    assert words[0] in {script.name for script in entry_points(group="console_scripts")}
    if "-w" in words:
        assert (ROOT / words[words.index("-w") + 1]).exists()


def test_variables_are_read_by_the_project() -> None:
    used = {name for service in OURS.values() for name in service.get("environment", {})}
    used |= set(re.findall(r"^(?:ENV|   ) (\w+)=", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)) - {"PATH"}
    read = {"PYTHONUNBUFFERED", "DAGSTER_HOME", "OMP_WAIT_POLICY"}  # by Python, Dagster and OpenMP
    files = [*(ROOT / "orchestration").rglob("*.py"), *DEPLOY.rglob("dagster.yaml"), DEPLOY / "entrypoint.sh"]
    text = "\n".join(file.read_text() for file in files)
    assert len(used) > 8 and {name for name in used - read if not re.search(rf"\b{name}\b", text)} == set()
    wanted = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster" / "dagster.yaml").read_text()))
    given = set(OURS["dagster-daemon"]["environment"])
    assert {name.removesuffix("_FILE") for name in given} >= wanted


def test_the_instance_differs_from_the_local_one_only_in_its_storage() -> None:
    local, container = (yaml.safe_load((folder / "dagster.yaml").read_text()) for folder in (ROOT, DEPLOY / "dagster"))
    assert container.pop("storage").keys() == {"postgres"} and local.pop("storage").keys() == {"sqlite"}
    assert container == local


def test_ports_are_published_on_loopback_and_checked_where_the_process_listens() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            host, outside, inside = port.split(":")
            assert host == "127.0.0.1" and outside == inside
            assert f"127.0.0.1:{inside}/" in service["healthcheck"]["test"][-1], name
    assert SERVICES["serve"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]


def test_tokens_and_passwords_are_secrets_and_not_in_the_image() -> None:
    declared = set(COMPOSE["secrets"])
    secrets = [one if isinstance(one, dict) else {"source": one} for of in SERVICES.values() for one in of.get("secrets", [])]
    assert {one["source"] for one in secrets} == declared
    assert {"source": "serving_token", "target": f"/data/{TOKEN}"} in secrets
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            assert "PASSWORD" not in key or (key.endswith("_FILE") and str(value).startswith("/run/secrets/"))
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().split()


def test_what_git_ignores_is_not_copied_into_the_image_by_any_builder() -> None:
    # Only BuildKit reads a `.dockerignore` beside the container file; all builders read the one of the root.
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ".git" in ignored
    for name in (ROOT / ".gitignore").read_text().split():
        wanted = name.strip("/") if name.startswith("/") or "/" in name.strip("/") else f"**/{name.strip('/')}"
        assert wanted in ignored, name


def test_only_what_uses_dagster_gets_its_password() -> None:
    given = {name for name, service in OURS.items() if "postgres_password" in service.get("secrets", [])}
    assert given == {name for name, service in OURS.items() if "EVERGREEN_PG_PASSWORD_FILE" in service.get("environment", {})}
    assert given == {"dagster-webserver", "dagster-daemon", "online"}


def test_a_health_check_that_reads_the_instance_gets_the_password() -> None:
    # A health check is started beside the entry point, without the variables that it exports.
    check = SERVICES["dagster-daemon"]["healthcheck"]["test"]
    assert check[-4:] == ["bash", "deploy/entrypoint.sh", "dagster-daemon", "liveness-check"]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (204, False), (401, False), (503, False), (None, False)])
def test_a_url_is_healthy_if_it_answers_200(status: int | None, healthy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 0)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # as Docker sets it for containers on networks with a proxy
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        url = f"http://127.0.0.1:{server.server_port}/health"
        if status is not None:
            threading.Thread(target=server.handle_request, daemon=True).start()
        else:
            server.server_close()
        done = subprocess.run([sys.executable, DEPLOY / "healthy.py", url], capture_output=True, check=False)
    assert (done.returncode == 0) is healthy


def test_the_entry_point_passes_the_password_and_the_status(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("to be kept\n")
    command = ["bash", str(DEPLOY / "entrypoint.sh"), "bash", "-c", 'echo "$EVERGREEN_PG_PASSWORD"; exit 7']
    found = subprocess.run(
        command, env={"EVERGREEN_PG_PASSWORD_FILE": str(secret)}, capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.returncode) == ("to be kept\n", 7)
    secret.unlink()
    refused = subprocess.run(
        command, env={"EVERGREEN_PG_PASSWORD_FILE": str(secret)}, capture_output=True, text=True, check=False
    )
    assert refused.stdout == "" and refused.returncode == 1 and str(secret) in refused.stderr


def test_containers_run_as_a_user_without_rights() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    for name, service in OURS.items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name


def test_volumes_and_networks_are_declared() -> None:
    for service in SERVICES.values():
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(COMPOSE["volumes"])
        assert set(service["networks"]) <= set(COMPOSE["networks"])


def test_files_that_the_containers_run_exist() -> None:
    named = {
        word for of in SERVICES.values() for word in of.get("healthcheck", {}).get("test", []) if word.startswith("deploy/")
    }
    named |= set(re.findall(r"deploy/[\w./]+\.(?:sh|txt)", (DEPLOY / "Dockerfile").read_text()))
    assert len(named) == 3 and all(Path(ROOT / name).is_file() for name in named)


def test_the_service_has_longer_to_end_than_its_requests() -> None:
    assert int(SERVICES["serve"]["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
