"""A federation from ``compose.yml`` on a real container engine, with either generation of Compose."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD_SECONDS, RUN_SECONDS = 2400, 1200
N_SITES = 3
IMAGE = os.environ.get("FEDREBASIN_IMAGE", "fedrebasin:0.1.0")
GRAFANA = os.environ.get("FEDREBASIN_GRAFANA_IMAGE", "grafana/grafana:12.1.1")
HAS_EXPORTER = (ROOT / "cli" / "exporter.py").exists() and (ROOT / "deploy" / "prometheus").exists()


@cache
def compose_command() -> list[str]:
    """``docker compose``, else ``docker-compose``; empty where there is neither, or no engine answers."""
    if shutil.which("docker") is None or docker("info", check=False).returncode:
        return []
    if docker("compose", "version", check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def docker(*arguments: str, check: bool = True, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """``docker arguments…``."""
    return execute(["docker", *arguments], check, text)


def execute(
    command: list[str], check: bool, text: str | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs a command; with ``check``, shows what it said when it fails."""
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
        cwd=ROOT,
        env=dict(environment or os.environ),
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}"
    return done


def has_image(name: str) -> bool:
    """Whether the image is here, or can be had."""
    return not (
        docker("image", "inspect", name, check=False).returncode and docker("pull", name, check=False).returncode
    )


@dataclass(frozen=True)
class Federation:
    """One project of Compose."""

    project: str
    environment: Mapping[str, str]
    runs: Path

    def compose(self, *arguments: str, check: bool = True, text: str | None = None) -> str:
        """``docker compose arguments…``; what it printed."""
        command = [*compose_command(), "--project-name", self.project, "--file", "compose.yml", *arguments]
        return execute(command, check, text, self.environment).stdout

    def container(self, service: str) -> str:
        """The id of a service's container. Fails with the last lines of every service when there is none."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.project}"
        found = docker("ps", "--all", "--quiet", "--filter", project, "--filter", label).stdout.split()
        assert found, f"{service} was not started\n{self.compose('logs', '--tail=15')}"
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a service's container."""
        return json.loads(docker("inspect", self.container(service)).stdout)[0]

    def python(self, service: str, program: str) -> str:
        """What a Python program prints that runs in a service's container."""
        return docker("exec", "--interactive", self.container(service), "python", "-", text=program).stdout

    def wait(self, there: Callable[[], bool], seconds: float, what: str) -> None:
        """Returns when ``there`` says so; else fails with the last lines of every service."""
        wait_until(there, seconds, lambda: f"{what}\n{self.compose('logs', '--tail=15')}", every=2)

    def leftovers(self) -> list[str]:
        """What of the project is still there."""
        mine = ("--filter", f"label=com.docker.compose.project={self.project}", "--quiet")
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [each for kind in kinds for each in docker(*kind, *mine).stdout.split()]


needs_engine = pytest.mark.skipif(
    not compose_command(), reason="no container engine answers here, or Compose is missing"
)
