"""Real parts on loopback: the exporter's command, and a Prometheus that scrapes it by our own configuration."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.ports import free_port
from tests.observability.test_rules import PROMETHEUS
from tests.waiting import wait_until


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, through its HTTP API."""

    port: int

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer. Raises `AssertionError` with what Prometheus says of a query that is wrong."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert document["status"] == "success", document
        return document["data"]

    def over(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series of a range query, a point each second."""
        return self.get("query_range", query=query, start=start, end=end, step=1)["result"]

    def at(self, query: str, when: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query."""
        moment: dict[str, str | float] = {} if when is None else {"time": when}
        return self.get("query", query=query, **moment)["result"]


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def running(command: list[str], log: Path) -> Generator[None]:
    """The process, for as long as it is needed."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def exporter(runs: Path, certificates: Path, folder: Path) -> Generator[int]:
    """`fedrebasin exporter` on a free port, which is returned."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "fedrebasin"), "exporter", "--runs", str(runs), "--port", str(port)]
    log = folder / "exporter.log"
    with running([*command, "--watch-certificates", str(certificates)], log):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 180, f"the exporter: {log}")
        yield port


@contextmanager
def prometheus(exporter_port: int, folder: Path) -> Generator[Prometheus]:
    """Prometheus with the project's own configuration and rules, every 15 s of it made two."""
    shutil.copytree(PROMETHEUS / "rules", folder / "rules")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{exporter_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    log = folder / "prometheus.log"
    with running(command, log):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 120, f"Prometheus: {log}")
        yield Prometheus(port)
