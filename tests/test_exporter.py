"""The exporter shows what the records say, whatever state the run store is in, and serves it safely."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.certificates import expiries, unusable
from server.exporter import ExporterError, Listening, RunCollector, start_exporter
from server.follow import Follower
from server.store import RunStore
from server.tail import Tail
from tests.certificates import Authority
from tests.commands import run as command
from tests.stores import COMPLETE, TRAINING, VOID, line, write_run

US = '{federation="federation",site="site-us"'


class Scraper:
    """Scrapes of one folder, as text."""

    def __init__(self, folder: Path) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(RunCollector(Follower(folder)))

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def value(self, series: str) -> float | None:
        """The value of ``fedrebasin_`` + ``series``; None when it is not there."""
        found = [row for row in self.text().splitlines() if row.startswith(f"fedrebasin_{series} ")]
        return float(found[0].rpartition(" ")[2]) if found else None


@pytest.fixture
def scraper(tmp_path: Path) -> Scraper:
    return Scraper(tmp_path)


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ('rounds_total{federation="federation",outcome="merged"}', 1),
        ('rounds_total{federation="federation",outcome="void"}', 1),
        ('last_round_finished_timestamp_seconds{federation="federation"}', 1_700_003_700),
        ('sites{federation="federation",state="refused"}', 1),
        ('sites{federation="federation",state="late"}', 1),
        ('site_state{federation="federation",site="site-eu",state="replied"}', 0),
        ('replies_total{federation="federation",site="site-us",verdict="admitted"}', 2),
        ('replies_total{federation="federation",site="site-eu",verdict="late"}', 1),
        ('replies_total{federation="federation",site="site-3",verdict="not_finite"}', 1),
        ('replies_total{federation="federation",site="site-us",verdict="shape"}', 0),
        ('site_weight_ratio{federation="federation",site="site-us"}', 0.75),
        ('loss_barrier_nats{federation="federation",site="site-eu",stage="naive"}', 1.1),
        ('loss_barrier_nats{federation="federation",site="site-eu",stage="aligned"}', 0.1),
        ('accuracy_ratio{federation="federation",network="merged"}', 0.95),
        ('accuracy_ratio{federation="federation",network="best_site"}', 0.9),
        ('site_alone_accuracy_ratio{federation="federation",site="site-eu"}', 0.8),
        ('accuracy_ratio{federation="federation",network="ensemble"}', 0.97),
        ('accuracy_ratio{federation="federation",network="naive"}', 0.6),
        ('loss_nats{federation="federation",network="best_site"}', 0.3),
        ('alignment_gain_nats{federation="federation",site="site-eu"}', 1.0),
        ('units_moved_ratio{federation="federation",group="conv1",site="site-eu"}', 0.75),
        ('guard_decisions_total{decision="aligned",federation="federation",site="site-eu"}', 1),
        ('activation_variance_ratio{federation="federation",layer="bn1"}', 0.9),
        ('phase_duration_seconds_bucket{federation="federation",le="60.0",phase="train"}', 1),
        ('phase_duration_seconds_count{federation="federation",phase="train"}', 2),
        ('phase_duration_seconds_sum{federation="federation",phase="train"}', 3640),
        ('checkpoint_bytes{federation="federation"}', 0),
        ('site_sent_bytes_total{federation="federation",site="site-us"}', 1100),
    ],
)
def test_a_sample_is_what_the_records_say(tmp_path: Path, scraper: Scraper, series: str, value: float) -> None:
    # After a void round the screen shows the last merge still.
    write_run(tmp_path / "run", [COMPLETE, VOID])
    assert scraper.value(series) == pytest.approx(value)


def test_the_same_records_give_the_same_bytes(tmp_path: Path, scraper: Scraper) -> None:
    write_run(tmp_path / "run", [COMPLETE, VOID])
    first = scraper.text()
    assert scraper.text() == first == Scraper(tmp_path).text()


def test_reading_as_it_grows_comes_to_the_same_as_reading_at_once(tmp_path: Path, scraper: Scraper) -> None:
    run = write_run(tmp_path / "run", [])
    for record in (COMPLETE, VOID, COMPLETE):
        text = line(record)
        for part in (text[:100], text[100:-1], text[-1:]):
            with (run / "rounds.jsonl").open("a") as file:
                file.write(part)
            scraper.text()
    assert scraper.text() == Scraper(tmp_path).text()
    assert scraper.value('rounds_total{federation="federation",outcome="merged"}') == 2


def test_a_half_written_line_waits_until_it_is_whole(tmp_path: Path, scraper: Scraper) -> None:
    run = write_run(tmp_path / "run", [COMPLETE])
    with (run / "rounds.jsonl").open("a") as file:
        file.write(line(VOID)[:-20])
    assert scraper.value('rounds_total{federation="federation",outcome="void"}') == 0
    assert scraper.value('unreadable_lines{federation="federation"}') == 0


def test_without_baselines_sites_are_known_before_the_merge_and_not_alone(tmp_path: Path, scraper: Scraper) -> None:
    write_run(tmp_path / "run", [COMPLETE.model_copy(update={"baselines": {}})])
    assert scraper.value('accuracy_ratio{federation="federation",network="best_site"}') is None
    assert scraper.value('site_alone_accuracy_ratio{federation="federation",site="site-eu"}') is None
    assert scraper.value('accuracy_ratio{federation="federation",network="best_before_merge"}') == 0.9
    assert scraper.value('site_accuracy_ratio{federation="federation",held_out="union",site="site-eu"}') == 0.8
    assert scraper.value('accuracy_ratio{federation="federation",network="ensemble"}') is None


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum"])
def test_no_site_has_a_share_under_a_rule_that_goes_by_no_weights(tmp_path: Path, scraper: Scraper, rule: str) -> None:
    write_run(tmp_path / "run", [COMPLETE], rule=rule)
    assert scraper.value('rounds_total{federation="federation",outcome="merged"}') == 1
    assert scraper.value('site_weight_ratio{federation="federation",site="site-us"}') is None


def test_of_a_federation_the_newest_run_is_shown_and_of_two_federations_both(tmp_path: Path, scraper: Scraper) -> None:
    write_run(tmp_path / "b", [COMPLETE], {"started": 100.0, "round": 1}, model="mlp")
    write_run(tmp_path / "a", [COMPLETE], {"started": 200.0, "round": 2})
    write_run(tmp_path / "other", [COMPLETE], {"started": 50.0, "round": 3}, federation="banks")
    assert scraper.value('current_round{federation="federation"}') == 2
    assert scraper.value('current_round{federation="banks"}') == 3
    assert 'model="mlp"' not in scraper.text()


def test_a_new_run_takes_the_place_of_the_old(tmp_path: Path, scraper: Scraper) -> None:
    write_run(tmp_path / "old", [COMPLETE, VOID], {"started": 100.0})
    assert scraper.value('rounds_total{federation="federation",outcome="void"}') == 1
    write_run(tmp_path / "new", [COMPLETE], {"started": 200.0})
    assert scraper.value('rounds_total{federation="federation",outcome="void"}') == 0


def test_a_run_that_is_resumed_is_shown_while_it_is_played_and_after_it_though_another_began_later(
    tmp_path: Path, scraper: Scraper
) -> None:
    old = write_run(tmp_path / "old", [COMPLETE], {"started": 100.0, "updated": 150.0, "round": 1})
    write_run(tmp_path / "new", [COMPLETE], {"started": 200.0, "updated": 250.0, "round": 7})
    assert scraper.value('current_round{federation="federation"}') == 7
    with RunStore(old).held():
        RunStore(old).tell({"phase": "train", "round": 2})
        assert scraper.value('current_round{federation="federation"}') == 2
    # Else nobody would be told that it failed.
    RunStore(old).tell({"phase": "failed"})
    assert scraper.value('run_state{federation="federation",state="failed"}') == 1


def test_a_copy_of_a_run_does_not_take_its_place(tmp_path: Path, scraper: Scraper) -> None:
    run = write_run(tmp_path / "run", [COMPLETE], TRAINING | {"round": 2})
    for name in ("backup", "zbackup"):
        copied = write_run(tmp_path / name, [COMPLETE], TRAINING | {"round": 1})
        (copied / "settings.json").write_bytes((run / "settings.json").read_bytes())
        (copied / ".lock").touch()
    with RunStore(run).held():
        assert scraper.value('current_round{federation="federation"}') == 2


def test_of_two_runs_that_are_played_the_one_that_began_later_is_shown_whoever_was_heard_last(
    tmp_path: Path, scraper: Scraper
) -> None:
    earlier = write_run(tmp_path / "earlier", [], TRAINING | {"started": 100.0, "round": 1, "updated": 900.0})
    later = write_run(tmp_path / "later", [], TRAINING | {"started": 200.0, "round": 2, "updated": 800.0})
    with RunStore(earlier).held(), RunStore(later).held():
        assert scraper.value('current_round{federation="federation"}') == 2


def test_a_run_that_starts_anew_under_its_name_is_read_anew(tmp_path: Path, scraper: Scraper) -> None:
    run = write_run(tmp_path / "run", [COMPLETE, VOID])
    scraper.text()
    for path in run.iterdir():
        path.unlink()
    write_run(run, [VOID])
    assert scraper.value('rounds_total{federation="federation",outcome="merged"}') == 0


@pytest.mark.parametrize(
    ("status", "lock", "state"),
    [
        (TRAINING, None, "active"),
        (TRAINING, "held", "active"),
        (TRAINING, "free", "dead"),
        ({"phase": "failed"}, "free", "failed"),
        ({"phase": "finished"}, "free", "finished"),
    ],
)
def test_a_run_that_nobody_plays_is_dead_unless_it_has_ended(
    tmp_path: Path, scraper: Scraper, status: dict[str, object], lock: str | None, state: str
) -> None:
    run = write_run(tmp_path / "run", [], status)
    with RunStore(run).held() if lock == "held" else nullcontext():
        if lock == "free":
            (run / ".lock").touch()
        states = {
            each: scraper.value(f'run_state{{federation="federation",state="{each}"}}')
            for each in ("active", "finished", "failed", "dead")
        }
    assert states == {each: float(each == state) for each in states}


@pytest.mark.parametrize(("silent_seconds", "state"), [(5.0, "active"), (300.0, "dead")])
def test_a_run_that_is_being_started_again_is_dead_only_after_a_while(
    tmp_path: Path, scraper: Scraper, silent_seconds: float, state: str
) -> None:
    """Whoever starts it says so first; its lock is taken by a process that Flower has yet to start."""
    starting: dict[str, object] = {"phase": "starting", "updated": time.time() - silent_seconds}
    run = write_run(tmp_path / "run", [COMPLETE], TRAINING | starting)
    (run / ".lock").touch()
    assert scraper.value(f'run_state{{federation="federation",state="{state}"}}') == 1


def nothing(folder: Path) -> None:
    folder.rmdir()


def no_records(folder: Path) -> None:
    run = write_run(folder / "broken", [])
    (run / "rounds.jsonl").unlink()


def garbage(folder: Path) -> None:
    run = write_run(folder / "broken", [])
    (run / "rounds.jsonl").write_bytes(b'\xff\xfe\n{}\n[]\nnull\n{"round": 1}\n' + b"[" * 100_000 + b"\n")


def half_written_status(folder: Path) -> None:
    run = write_run(folder / "broken", [])
    (run / "status.json").write_text('{"round": 3, "pha')


def foreign_status(folder: Path) -> None:
    run = write_run(folder / "broken", [])
    (run / "status.json").write_text('["not", "ours"]')


def foreign_settings(folder: Path) -> None:
    write_run(folder / "broken", [])
    (folder / "broken" / "settings.json").write_text('{"editor.fontSize": 12}')


def folders_for_files(folder: Path) -> None:
    for name in ("settings.json", "status.json", "rounds.jsonl"):
        (folder / "broken" / name).mkdir(parents=True)


def pipes_for_files(folder: Path) -> None:
    write_run(folder / "broken", [])
    for name in ("settings.json", "status.json", "rounds.jsonl"):
        (folder / "broken" / name).unlink()
        os.mkfifo(folder / "broken" / name)


def a_pipe_for_records(folder: Path) -> None:
    run = write_run(folder / "broken", [])
    (run / "rounds.jsonl").unlink()
    os.mkfifo(run / "rounds.jsonl")


def a_loop_of_links(folder: Path) -> None:
    run = write_run(folder / "broken", [])
    (run / "rounds.jsonl").unlink()
    (run / "rounds.jsonl").symlink_to(run / "rounds.jsonl")


def files_beside_runs(folder: Path) -> None:
    (folder / "notes.txt").write_text("not a run")
    (folder / ".cache").mkdir()


@pytest.mark.parametrize(
    "break_it",
    [
        *(nothing, no_records, garbage, half_written_status, foreign_status, foreign_settings, folders_for_files),
        *(pipes_for_files, a_pipe_for_records, a_loop_of_links, files_beside_runs),
    ],
    ids=lambda function: function.__name__,
)
def test_a_broken_store_does_not_stop_what_is_whole(tmp_path: Path, scraper: Scraper, break_it: object) -> None:
    assert callable(break_it)
    break_it(tmp_path)
    assert "fedrebasin_build_info" in scraper.text()
    # A run beside it is shown, and so is one that begins afterwards.
    write_run(tmp_path / "whole", [COMPLETE], {"started": 1_800_000_000.0}, federation="whole")
    assert scraper.value('rounds_total{federation="whole",outcome="merged"}') == 1


def test_lines_that_are_no_records_are_counted(tmp_path: Path, scraper: Scraper) -> None:
    run = write_run(tmp_path / "run", [COMPLETE])
    with (run / "rounds.jsonl").open("ab") as file:
        file.write(b"\x00\x01\n{}\n" + line(VOID).encode())
    assert scraper.value('unreadable_lines{federation="federation"}') == 2
    assert scraper.value('rounds_total{federation="federation",outcome="void"}') == 1


def test_a_long_store_is_read_in_portions_and_says_what_is_left(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [COMPLETE] * 10)
    size, tail = len(line(COMPLETE)), Tail(run / "rounds.jsonl")
    tail.read(most_bytes=3 * size + 5)
    assert (tail.tally.rounds["merged"], tail.unread) == (3, 7 * size)
    for _ in range(3):
        tail.read(most_bytes=3 * size + 5)
    assert (tail.tally.rounds["merged"], tail.unread) == (10, 0)


def test_what_was_read_is_not_read_again(tmp_path: Path, scraper: Scraper) -> None:
    run = write_run(tmp_path / "run", [COMPLETE])
    before = scraper.text()
    with (run / "rounds.jsonl").open("r+") as file:
        file.write("x" * 50)
    assert scraper.text() == before


def test_before_it_serves_it_has_read_all(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [COMPLETE] * 5000)
    follower = Follower(tmp_path)
    follower.catch_up()
    (run,) = follower.newest().values()
    assert run.tail.tally.rounds["merged"] == 5000


def test_records_that_were_replaced_are_read_to_their_end_before_they_are_shown(
    tmp_path: Path, scraper: Scraper
) -> None:
    """Counters that go up again over several scrapes are new void rounds to Prometheus."""
    run = write_run(tmp_path / "run", [COMPLETE] * 3000)
    while scraper.value('unread_records_bytes{federation="federation"}'):
        pass
    write_run(run, [VOID, *[COMPLETE] * 2998])
    assert scraper.value('rounds_total{federation="federation",outcome="merged"}') == 2998


def test_no_counter_falls_where_a_run_takes_rounds_back_and_no_round_counts_twice(
    tmp_path: Path, scraper: Scraper
) -> None:
    """To Prometheus all that a counter holds which fell is new: of rounds, replies, bytes and seconds."""
    run = write_run(tmp_path / "run", [COMPLETE, VOID, VOID])

    def counts() -> dict[str, float]:
        lines = (text.rsplit(" ", 1) for text in scraper.text().splitlines() if not text.startswith("#"))
        return {name: float(value) for name, value in lines if "_total{" in name or "_bucket{" in name}

    before = counts()
    RunStore(run).keep_rounds(2)
    assert counts() == before
    assert scraper.value('last_round_finished_timestamp_seconds{federation="federation"}') == VOID.finished
    with (run / "rounds.jsonl").open("a") as file:
        file.write(line(COMPLETE))
    assert counts() == before
    assert scraper.value('last_round_finished_timestamp_seconds{federation="federation"}') == COMPLETE.finished
    with (run / "rounds.jsonl").open("a") as file:
        file.write(line(COMPLETE))
    assert scraper.value('rounds_total{federation="federation",outcome="merged"}') == 2


def test_a_run_that_comes_to_be_shown_is_read_to_its_end(tmp_path: Path, scraper: Scraper) -> None:
    write_run(tmp_path / "old", [COMPLETE])
    scraper.text()
    write_run(tmp_path / "resumed", [COMPLETE] * 3000, {"updated": 1_800_000_000.0})
    assert scraper.value('rounds_total{federation="federation",outcome="merged"}') == 3000


def test_before_it_serves_it_does_not_wait_for_the_rest_of_a_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [COMPLETE] * 5000)
    with (run / "rounds.jsonl").open("a") as file:
        file.write(line(VOID)[:-20])
    follower = Follower(tmp_path)
    follower.catch_up()
    (found,) = follower.newest().values()
    assert found.tail.tally.rounds["merged"] == 5000
    assert found.tail.unread == len(line(VOID)) - 20


def test_a_line_longer_than_a_portion_is_read_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [COMPLETE, VOID])
    tail = Tail(run / "rounds.jsonl")
    tail.read(most_bytes=50)
    tail.read(most_bytes=50)
    assert tail.tally.last == VOID


@contextmanager
def served(
    folder: Path, certificate: Path | None = None, key: Path | None = None, client_ca: Path | None = None
) -> Generator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = start_exporter(RunCollector(Follower(folder)), Listening("127.0.0.1", port, certificate, key, client_ca))
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()


def get(url: str, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=5, context=context) as answer:
        return answer.read().decode()


def test_metrics_and_health_are_served_and_nothing_else(tmp_path: Path) -> None:
    write_run(tmp_path / "named", [COMPLETE])
    with served(tmp_path) as port:
        # Before anything was scraped.
        (run,) = json.loads(get(f"http://127.0.0.1:{port}/health"))["runs"]
        assert (run["run"], run["phase"]) == ("named", "finished")
        assert "fedrebasin_rounds_total" in get(f"http://127.0.0.1:{port}/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"http://127.0.0.1:{port}/")


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with (
        served(tmp_path) as port,
        pytest.raises(ExporterError, match=f"127.0.0.1:{port}: .*; choose another with --port"),
    ):
        start_exporter(RunCollector(Follower(tmp_path)), Listening(port=port))


@pytest.mark.parametrize("host", ["nohost.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_told(tmp_path: Path, host: str) -> None:
    with pytest.raises(ExporterError, match=f"cannot listen on {host}:9464: .*; name an address .* with --host"):
        start_exporter(RunCollector(Follower(tmp_path)), Listening(host))


def test_one_bad_file_of_three_is_named_and_the_others_are_not(tmp_path: Path) -> None:
    authority = Authority("ours")
    server, other = (authority.issue(tmp_path / name, "127.0.0.1") for name in ("server", "other"))
    ca, bad = authority.write(tmp_path / "ca.crt"), tmp_path / "bad.crt"
    bad.write_text("no certificate")
    for files, named in (
        ((server.certificate, server.key, bad), f"--client-ca {bad}"),
        ((bad, server.key, ca), f"--certificate {bad}"),
        ((server.certificate, other.key, ca), f"--key {other.key}"),
    ):
        with pytest.raises(ExporterError) as told:
            start_exporter(RunCollector(Follower(tmp_path)), Listening("127.0.0.1", 0, *files))
        assert str(told.value).startswith(f"cannot use {named}: ")
        assert [option for option in ("--client-ca", "--certificate", "--key") if option in str(told.value)] == [
            named.partition(" ")[0]
        ]


def test_a_look_at_its_health_tells_of_one_moment_whatever_is_scraped_meanwhile(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    follower = Follower(runs)

    class Lock:
        """As soon as it is free, the folder is there, and the next looks."""

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None:
            write_run(runs / "run", [COMPLETE])
            follower.newest()

    told = RunCollector(follower, (), Lock()).health()
    assert (told["status"], told["problem"], told["runs"]) == ("degraded", "No such file or directory", [])


def test_a_run_store_that_vanishes_is_told_and_so_is_its_return(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "run", [COMPLETE])
    scraper = Scraper(runs)
    assert scraper.value("run_store_readable") == 1
    runs.rename(tmp_path / "elsewhere")
    assert scraper.value("run_store_readable") == 0
    with served(runs) as port:
        told = json.loads(get(f"http://127.0.0.1:{port}/health"))
        assert (told["status"], told["problem"], told["runs"]) == ("degraded", "No such file or directory", [])
        runs.write_text("no folder")
        assert json.loads(get(f"http://127.0.0.1:{port}/health"))["problem"] == "Not a directory"
        runs.unlink()
        (tmp_path / "elsewhere").rename(runs)
        assert json.loads(get(f"http://127.0.0.1:{port}/health"))["status"] == "ok"
    assert scraper.value("run_store_readable") == 1


def test_with_a_client_authority_only_its_clients_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, foreign = Authority("ours"), Authority("foreign")
    server = ours.issue(tmp_path / "server", "127.0.0.1")
    with served(tmp_path, server.certificate, server.key, ours.write(tmp_path / "ca.crt")) as port:
        url = f"https://127.0.0.1:{port}/health"
        for authority, name in ((None, "nobody"), (foreign, "foreign"), (ours, "ours")):
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
            if authority is not None:
                client = authority.issue(tmp_path / name, "prometheus")
                context.load_cert_chain(client.certificate, client.key)
            if authority is ours:
                assert '"ok"' in get(url, context)
            else:
                with pytest.raises((OSError, urllib.error.URLError)):
                    get(url, context)
    # Whoever knocks does not fill the log.
    assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_connects_and_says_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    authority = Authority("ours")
    server = authority.issue(tmp_path / "server", "127.0.0.1")
    authority.write(tmp_path / "ca.crt")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with (
        served(tmp_path, certificate=server.certificate, key=server.key) as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert '"ok"' in get(f"https://127.0.0.1:{port}/health", context)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--certificate", "a.crt"], 19, "--certificate and --key go together"),
        (["--client-ca", "ca.crt"], 19, "--client-ca needs both"),
        (["--certificate", "a.crt", "--key", "a.key"], 20, "cannot use --certificate a.crt: "),
        (["--runs", "/etc/passwd"], 20, "--runs /etc/passwd: a file; expected the folder that holds the runs"),
    ],
)
def test_options_that_cannot_be_used_are_told(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    done = command(capsys, "exporter", "--port", "29464", *options)
    assert done.code == code
    assert said in done.err


def test_the_end_of_every_certificate_is_known(tmp_path: Path) -> None:
    authority = Authority("ours")
    authority.issue(tmp_path / "site-us", "site-us", days=10)
    authority.issue(tmp_path / "site-eu", "site-eu", days=20)
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nnot one\n")
    found = expiries((tmp_path, tmp_path / "missing.crt"))
    us, eu = (str(tmp_path / f"{name}.crt") for name in ("site-us", "site-eu"))
    assert list(found) == [eu, us]
    assert found[eu] - found[us] == pytest.approx(10 * 86400, abs=5)


def test_a_certificate_is_not_hidden_by_another_of_its_name(tmp_path: Path) -> None:
    authority = Authority("ours")
    for folder, days in (("proxy", 1), ("superlink", 800)):
        (tmp_path / folder).mkdir()
        authority.issue(tmp_path / folder / "server", "server", days=days)
    registry = CollectorRegistry()
    registry.register(RunCollector(Follower(tmp_path), (tmp_path / "proxy", tmp_path / "superlink")))
    shown = generate_latest(registry).decode()
    for folder in ("proxy", "superlink"):
        path = tmp_path / folder / "server.crt"
        assert f'fedrebasin_certificate_expiry_timestamp_seconds{{certificate="{path}"}}' in shown


def test_places_without_certificates_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nnot one\n")
    (tmp_path / "good").mkdir()
    Authority("ours").issue(tmp_path / "good" / "site-us", "site-us")
    places = (tmp_path / "nope", tmp_path / "empty", tmp_path / "broken.pem", tmp_path / "good")
    assert unusable(places) == [
        f"{tmp_path / 'nope'}: no such file or folder",
        f"{tmp_path / 'empty'}: a folder without .crt, .pem, .cer",
        f"{tmp_path / 'broken.pem'}: no certificate in PEM that we may read",
    ]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_ended(tmp_path: Path, sign: signal.Signals) -> None:
    write_run(tmp_path / "run", [COMPLETE])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [str(Path(sys.executable).parent / "fedrebasin"), "exporter", "--runs", str(tmp_path), "--port", port]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}/metrics" in process.stderr.readline()
        assert "fedrebasin_rounds_total" in get(f"http://127.0.0.1:{port}/metrics")
        process.send_signal(sign)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
