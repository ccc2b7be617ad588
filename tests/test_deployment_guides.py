"""docs/site-guide.md and docs/server-guide.md keep their word: commands, options, variables and services are there."""

import os
import pwd
import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import click
import pytest
import typer
import yaml

from cli.enrolment.templates import render
from cli.enrolment.units import ServerPlaces, write_server_units
from cli.interrupts import ENDS_WITHIN_SECONDS
from cli.main import app
from tests.commands import itself
from tests.deployment.federation import BIN, Deployment

ROOT = Path(__file__).resolve().parent.parent
GUIDES = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("site-guide.md", "server-guide.md")}
COMPOSE = (ROOT / "compose.yml").read_text(encoding="utf-8")
SPOKEN = re.compile(r"(?:fedrebasin|enrolment|run) (site|server) ([a-z-]+)([^\n`|]*)")


def commands(text: str) -> list[tuple[str, str, list[str]]]:
    """Each command that a guide names: its group, its name, its options."""
    return [(found[1], found[2], re.findall(r"--[a-z-]+", found[3])) for found in SPOKEN.finditer(text)]


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_and_option_is_there(guide: str) -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    spoken = commands(GUIDES[guide])
    assert len(spoken) > 5
    for group, name, options in spoken:
        verbs = root.commands[group]
        assert isinstance(verbs, click.Group)
        known = {option for parameter in itself(verbs.commands[name]).params for option in parameter.opts}
        assert set(options) <= known, f"{group} {name}"


def test_every_variable_that_is_named_is_read() -> None:
    for text in (GUIDES["server-guide.md"], COMPOSE):
        for name in re.findall(r"FEDREBASIN_[A-Z_]+", text):
            assert f"${{{name}" in COMPOSE, name


def test_every_service_that_is_named_is_there() -> None:
    compose: dict[str, Any] = yaml.safe_load(COMPOSE)
    for line in re.findall(r"docker compose (?:up|restart|stop|start|logs) ([^\n`]*)", GUIDES["server-guide.md"]):
        named = [word for word in line.split("#")[0].split() if not word.startswith("-")]
        assert set(named) <= set(compose["services"]), line


def test_nothing_is_relaxed_but_for_development() -> None:
    compose: dict[str, Any] = yaml.safe_load(COMPOSE)
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["mem_limit"], name
        assert "docker.sock" not in str(service), name
        assert "--insecure" not in str(service), name
        assert set(service.get("networks", [])) <= {"sites", "internal", "metrics", "outside"}, name
    published = {name for name, service in compose["services"].items() if "ports" in service}
    assert published == {"proxy", "grafana"}
    # No site reaches what is inside, and nobody inside but the proxy reaches a site.
    both = {
        name for name, each in compose["services"].items() if {"sites", "internal"} <= set(each.get("networks", []))
    }
    assert both == {"proxy", "rehearsal"}


def networks_of(text: str) -> dict[str, set[str]]:
    """The networks of each service that a file names any for."""
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return {name: set(each["networks"]) for name, each in services.items() if "networks" in each}


def test_training_at_a_site_shares_no_network_with_what_lends_the_sites_certificate() -> None:
    kit = (ROOT / "deploy" / "site" / "compose.yml.j2").read_text(encoding="utf-8")
    told, networks = networks_of(kit), yaml.safe_load(kit)["networks"]
    assert not told["superexec"] & told["sidecar"]
    assert told["superexec"] & told["supernode"]
    assert told["sidecar"] & told["supernode"]
    assert {name for name, each in networks.items() if not each.get("internal")} == {"outside"}
    assert {name for name, each in told.items() if "outside" in each} == {"sidecar", "check"}


def test_what_shows_the_runs_cannot_reach_what_commands_the_sites() -> None:
    told = networks_of(COMPOSE)
    showing = {"exporter", "prometheus", "grafana"}
    assert {name for name, networks in told.items() if "metrics" in networks} == showing
    relaxed = networks_of((ROOT / "compose.dev.yml").read_text(encoding="utf-8"))
    assert not {name for name in showing if "internal" in told[name] | relaxed.get(name, set())}


def test_the_guide_says_who_is_on_which_network() -> None:
    networks = yaml.safe_load(COMPOSE)["networks"]
    rows = re.findall(r"^\| `([a-z]+)` \| [^|]+ \| (none|the host's) \|$", GUIDES["server-guide.md"], re.MULTILINE)
    assert dict(rows) == {
        name: "none" if (each or {}).get("internal") else "the host's" for name, each in networks.items()
    }


def test_a_secret_is_written_only_by_who_makes_it() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    writers: dict[str, set[str]] = {}
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if not volume.endswith(":ro"):
                writers.setdefault(volume.split(":")[0], set()).add(name)
    assert writers["superexec"] == {"certificates"}
    # No secret: the federation's settings, which `renew` changes, and the authority's certificate.
    assert writers["operator"] == {"certificates", "enrolment"}
    # `server renew server` signs anew for the SuperLink.
    assert writers["superlink"] == {"certificates", "enrolment"}
    assert writers["authority"] == writers["proxy"] == writers["issued"] == {"certificates", "enrolment", "rehearsal"}


def test_grafana_finds_its_dashboards_where_they_are_mounted() -> None:
    grafana: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]["grafana"]
    mounted = {target: ROOT / source for source, target in (each.split(":")[:2] for each in grafana["volumes"])}
    provider = mounted["/etc/grafana/provisioning"] / "dashboards" / "fedrebasin.yml"
    (told,) = yaml.safe_load(provider.read_text(encoding="utf-8"))["providers"]
    assert list(mounted[told["options"]["path"]].glob("*.json"))
    home = PurePosixPath(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[str(home.parent)] / home.name).is_file()


def test_the_guide_has_the_run_config_written_and_looked_at_before_the_first_start_fixes_it() -> None:
    guide = GUIDES["server-guide.md"].partition("\n## With sites elsewhere\n")[2]
    (named,) = re.findall(r"FEDREBASIN_RUN_CONFIG=\./(\S+)", guide)
    steps = [f"`{named}`", "FEDREBASIN_RUN_CONFIG=", "docker compose build", "settings /run.toml", "docker compose up"]
    assert [guide.index(step) for step in steps] == sorted(guide.index(step) for step in steps)


def test_a_run_config_that_is_not_there_ends_the_first_start(tmp_path: Path) -> None:
    # The rest of the script is at home in a container alone.
    script = (ROOT / "deploy" / "docker" / "certificates.sh").read_text(encoding="utf-8")
    before, _, _ = script.partition("fedrebasin server init")
    (check,) = re.findall(r"^if \[ ! -f /run\.toml \].*?^fi$", before, re.DOTALL | re.MULTILINE)
    check = check.replace("/run.toml", str(tmp_path / "run.toml"))
    told = {"FEDREBASIN_RUN_CONFIG": "./federation-run.toml", "PATH": os.environ["PATH"]}

    def start() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["sh", "-c", check], env=told, capture_output=True, text=True, check=False)

    (tmp_path / "run.toml").mkdir()
    done = start()
    assert done.returncode == 11
    assert "FEDREBASIN_RUN_CONFIG is ./federation-run.toml" in done.stderr
    (tmp_path / "run.toml").rmdir()
    (tmp_path / "run.toml").write_text("rounds = 1\n")
    assert start().returncode == 0


def test_the_authority_of_sites_is_not_deleted_as_what_a_broken_start_left(tmp_path: Path) -> None:
    script = (ROOT / "deploy" / "docker" / "certificates.sh").read_text(encoding="utf-8")
    (start,) = re.findall(r"^if \[ ! -e /federation/federation\.toml \].*?^fi$", script, re.DOTALL | re.MULTILINE)
    folder = tmp_path / "federation"
    start = re.sub(r"(?<=\s)/federation", str(folder), start)
    (tmp_path / "bin").mkdir()
    folder.mkdir()
    (tmp_path / "bin" / "fedrebasin").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "fedrebasin").chmod(0o755)
    told = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "proxy": "proxy:8443"}

    def started(sites: str) -> "subprocess.CompletedProcess[str]":
        (folder / "ca.key").write_text("key")
        (folder / "sites.json").write_text(sites)
        return subprocess.run(["sh", "-euc", start], env=told, capture_output=True, text=True, check=False)

    done = started('{"sites": [{"name": "st-marys"}]}')
    assert done.returncode == 11
    assert "federation.toml is gone, and sites.json lists sites" in done.stderr
    assert (folder / "ca.key").read_text() == "key"
    assert started('{"sites": []}').returncode == 0
    assert not (folder / "ca.key").exists()


RUNNING = (["server", "run"], ["server", "rehearse"])


def test_who_waits_for_a_run_has_the_time_to_stop_it() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    submitting = [each for each in services.values() if each.get("command", [])[:2] in RUNNING]
    assert len(submitting) == 2
    for each in submitting:
        seconds = int(each["stop_grace_period"].removesuffix("s"))
        # `flwr stop`, which a busy machine takes long to start, and the wait for the ServerApp.
        assert seconds >= 2 * ENDS_WITHIN_SECONDS


def test_what_shows_the_runs_asks_and_tells_nobody_outside() -> None:
    grafana: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]["grafana"]["environment"]
    closed = ("PLUGINS_PREINSTALL_DISABLED", "SECURITY_DISABLE_GRAVATAR")
    silent = ("ANALYTICS_REPORTING_ENABLED", "ANALYTICS_CHECK_FOR_UPDATES", "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES")
    expected = dict.fromkeys(closed, "true")
    expected |= dict.fromkeys((*silent, "NEWS_NEWS_FEED_ENABLED", "SNAPSHOTS_EXTERNAL_ENABLED"), "false")
    assert {key: grafana.get(f"GF_{key}") for key in expected} == expected


def mebibytes(text: str) -> int:
    """The size that ``text`` is, such as 256m or 1g."""
    return int(text[:-1]) * {"m": 1, "g": 1024}[text[-1]]


def test_the_proxy_survives_what_sites_do_not_finish_sending() -> None:
    proxy: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]["proxy"]
    nginx = (ROOT / "deploy" / "proxy" / "nginx.conf.j2").read_text(encoding="utf-8")
    (room,) = re.findall(r"^/tmp:size=(\d+[mg])", proxy["tmpfs"][0])
    (at_once,) = re.findall(r"limit_conn connections (\d+);", nginx)
    (body,) = re.findall(r"client_max_body_size (\d+m);", nginx)
    # A tmpfs counts as its container's memory.
    assert mebibytes(proxy["mem_limit"]) >= mebibytes(room) + 256
    assert int(at_once) * mebibytes(body) * 8 <= mebibytes(room)


RESTARTS = ("docker compose up -d --force-recreate", "systemctl restart 'fedrebasin-*'")


@pytest.mark.parametrize("place", ["docs/site-guide.md", "deploy/site/site.toml.j2"])
def test_a_site_is_told_how_what_it_changed_takes_effect(place: str) -> None:
    assert all(command in (ROOT / place).read_text(encoding="utf-8") for command in RESTARTS)
    units = [path.name.removesuffix(".j2") for path in (ROOT / "deploy" / "site").glob("*.service.j2")]
    assert units
    assert all(fnmatch(unit, "fedrebasin-*") for unit in units)


@pytest.mark.parametrize(
    ("page", "after"), [("server-guide.md", "server renew NAME"), ("site-guide.md", "site install` it over")]
)
def test_who_renews_a_certificate_is_led_to_the_restart(page: str, after: str) -> None:
    assert "### Start anew\n" in GUIDES["site-guide.md"]
    (row,) = [line for line in GUIDES[page].splitlines() if line.startswith("|") and after in line]
    assert "#start-anew)" in row


def test_the_runbook_renews_a_certificate_with_commands_that_do_so() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    paragraph = runbook.partition("\n## FedrebasinCertificateExpiresSoon\n")[2].partition("\n## ")[0]
    spoken = [(group, name) for group, name, _ in commands(paragraph)]
    assert spoken == [("server", "renew"), ("site", "install"), ("server", "renew")]
    # As the files in the folder that the exporter watches are named.
    assert all(f"`{name}`" in paragraph for name in ("NAME.site.crt", "proxy.crt", "superlink.crt", "ca.crt"))


def test_a_backup_is_its_owners_alone_is_looked_into_and_holds_every_volume_with_secrets() -> None:
    backup = GUIDES["server-guide.md"].partition("\n## Backup\n")[2].partition("\n## ")[0]
    assert "install -d -m 700 backup" in backup
    assert "umask 077" in backup
    looked_for = backup.partition("tar -tf ")[2].splitlines()[0].split()[1:]
    assert {"federation/ca.key", "federation/sites.json", "state/superlink.db"} <= set(looked_for)
    # No name of a volume, which begins with a project's name that is not always the folder's.
    assert "docker run" not in backup
    services: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    seen = {volume.split(":")[0]: volume.split(":")[1] for volume in services["certificates"]["volumes"]}
    (folders,) = re.findall(r"-C / -cf - ([a-z ]+) >", backup)
    kept = {name for name, place in seen.items() if place.split("/")[1] in folders.split()}
    assert kept == {"authority", "proxy", "superlink", "superexec", "operator", "issued", "superlink-state"}


def test_a_sites_containers_are_bound_as_the_servers_are() -> None:
    kit: dict[str, Any] = yaml.safe_load(render("site/compose.yml.j2", site="st-marys", image="fedrebasin:0.1.0"))
    ours: dict[str, Any] = yaml.safe_load(COMPOSE)["x-ours"]
    bounds = ("read_only", "cap_drop", "security_opt", "init", "pids_limit", "logging")
    for name, service in kit["services"].items():
        assert {key: service.get(key) for key in bounds} == {key: ours[key] for key in bounds}, name
        assert service["mem_limit"], name


def test_a_site_without_containers_serves_nothing_and_its_user_can_enter() -> None:
    install = GUIDES["site-guide.md"].partition("\n## 1. Install\n")[2].partition("\n## 2. ")[0]
    assert install.index("scripts/debian.sh nginx-light") < install.index("systemctl disable --now nginx")
    assert "`/opt/fedrebasin`" in install


def test_the_runbook_leads_to_what_each_verdict_means() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    paragraph = runbook.partition("\n## FedrebasinReplyRefused\n")[2].partition("\n## ")[0]
    (page, heading) = re.findall(r"\]\((\S+)#([a-z-]+)\)", paragraph)[0]
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert heading in {each.lower().replace(" ", "-") for each in headings}


def test_a_server_without_containers_is_started_as_the_tests_start_it(tmp_path: Path) -> None:
    section = GUIDES["server-guide.md"].partition("\n## Without containers\n")[2].partition("\n## ")[0]
    (block,) = [each.replace("\\\n", " ") for each in section.split("```")[1::2] if "flower-superexec" in each]
    told = [[word for word in shlex.split(line) if "=" not in word] for line in block.splitlines() if line.strip()]
    made = Deployment(tmp_path, superlink="127.0.0.1:8000")
    made.make({})
    places = {
        f"{BIN}/": "",
        f"{ROOT}/": "",
        str(made.server.path): "federation",
        str(tmp_path / "state.db"): "state/superlink.db",
        str(tmp_path / "proxy-scratch"): "state/nginx",
    }
    for words, service in zip(told, ("superlink", "proxy", "superexec"), strict=True):
        ours = " ".join(made.services[service].command)
        for path, there in places.items():
            ours = ours.replace(path, there)
        spoken = (word.removeprefix("$PWD/").removeprefix("/opt/fedrebasin/") for word in words)
        assert sorted(spoken) == sorted(ours.split()), service


def test_the_units_start_what_the_guide_says(tmp_path: Path) -> None:
    section = GUIDES["server-guide.md"].partition("\n## Without containers\n")[2].partition("\n## ")[0]
    (enabled,) = re.findall(r"systemctl enable --now (.*)", section)
    units = {path.name.removesuffix(".service.j2") for path in (ROOT / "deploy" / "server").iterdir()}
    assert set(enabled.split()) == units
    made = Deployment(tmp_path, superlink="127.0.0.1:8000")
    made.make({})
    places = ServerPlaces(made.server, tmp_path, tmp_path / "runs")
    written = write_server_units(places, tmp_path, BIN / "fedrebasin", pwd.getpwuid(os.getuid()).pw_name)
    started = {path.stem.removeprefix("fedrebasin-server-"): path.read_text() for path in written}
    for name in ("superlink", "superexec", "proxy"):
        (line,) = re.findall(r"^ExecStart=(.*)$", started[name].replace("\\\n", " "), re.MULTILINE)
        ours = (
            " ".join(made.services[name].command).replace("state.db", "superlink.db").replace("proxy-scratch", "nginx")
        )
        assert sorted(line.split()) == sorted(ours.split()), name
