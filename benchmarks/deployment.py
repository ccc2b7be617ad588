"""What a site and a round cost on the real path: bytes, seconds and memory, from a deployment on loopback.

    python -m benchmarks.deployment --sites 2 --model resnet20 --width 16

SuperLink, SuperExec, nginx and every site are processes of this machine; what each site sends and gets is read from the
proxy's own log, memory from /proc twice a second. Prints one JSON document. docs/scale.md has what it printed.
"""

import argparse
import json
from pathlib import Path

from cli.processes import processes_of
from server.summary import read_rounds
from tests.deployment.federation import Deployment, deployment
from tests.waiting import Beside, wait_until

KIBI = 1024


class Memory(Beside):
    """The most that each service took at once, all its processes together, in bytes."""

    def __init__(self, made: Deployment) -> None:
        super().__init__(0.5)
        self.made = made
        self.most: dict[str, int] = {}

    def once(self) -> None:
        """Looks at every service."""
        for name, service in self.made.services.items():
            taken = sum(resident(each) for each in processes_of(Path(service.environment["FLWR_HOME"])))
            self.most[name] = max(self.most.get(name, 0), taken)


def resident(process_id: int) -> int:
    """Memory of a process, in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line for line in lines if line.startswith("VmRSS:")]
    return int(found[0].split()[1]) * KIBI if found else 0


def traffic(log: Path) -> dict[str, dict[str, int]]:
    """Bytes up and down and the number of requests of each site, by the proxy's log."""
    sums: dict[str, dict[str, int]] = {}
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            told = json.loads(line)
            site = sums.setdefault(told["site"], {"up": 0, "down": 0, "requests": 0})
            site["up"] += told["received_bytes"]
            site["down"] += told["sent_bytes"]
            site["requests"] += 1
    return sums


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    run: dict[str, bool | int | float | str] = {"model": asked.model, "width": asked.width, "epochs": 1}
    run |= {"later-epochs": 1, "rounds": asked.rounds, "min-sites": asked.sites, "probe-points": 0}
    with deployment(run) as made:
        made.start_server()
        for number in range(asked.sites):
            name = f"site-{number + 1}"
            made.enrol(name, partition=number, partitions=asked.sites)
            made.start(name)
        wait_until(lambda: len(made.online()) == asked.sites, 300, made.logs)
        before = traffic(made.services["proxy"].log)
        memory = Memory(made)
        with memory:
            assert made.run("measured").wait(3600) == 0, made.logs()
        rounds = read_rounds(made.store("measured"))
        network = made.store("measured").checkpoint_path(1).stat().st_size
        after = traffic(made.services["proxy"].log)
    spent = {site: {kind: n - before.get(site, {}).get(kind, 0) for kind, n in after[site].items()} for site in after}
    told = [{"seconds": each.seconds, "sites": sorted(each.weights)} for each in rounds]
    document = {"network_bytes": network, "rounds": told, "traffic": spent, "memory_bytes": memory.most}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
