"""Writes the pages that are made from the code; with ``--check``, fails when one is out of date.

docs/settings.md  from `strategies.settings.Settings`
docs/metrics.md   from `server.metrics.CATALOGUE`
deploy/grafana    the dashboards, from the same and `scripts.dashboards`
"""

import sys
from pathlib import Path

from scripts.dashboards.build import dashboards
from server.metrics import metrics_table
from strategies.settings import settings_table

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = f"""# Settings of a run

Every key of the run config: `flwr run . --run-config "rounds=5 split='iid'"`, or `--run-config FILE.toml`. Server and
sites read the same table. Flower itself refuses a key that is none of these, with "Invalid run configuration" and no
word on which; `fedrebasin settings FILE.toml` reads the file as a run would, names the misspelt key's nearest
neighbour, or what was expected and got, and else shows what every setting will be. A wrong value stops a run at its
start, and stands in the log and in `status.json`. `make pages` renews this page from `strategies/settings.py`.

{settings_table()}

## Settings of a site

A site's own, in the node config of its SuperNode: `flower-supernode --node-config "name='site-us' data='/data'"`.

| setting | default | what it says |
| --- | --- | --- |
| `name` | `site` | The site's name; a name under which its SuperNode was registered wins |
| `data` | the run's | Where its samples are |
| `state-dir` | `~/.fedrebasin` | Where it keeps its own network |
| `threads` | all | Torch threads |
| `checkpoint` | none | A trained network, safetensors, to join with (`start = "checkpoint"`) |
"""
METRICS = f"""# Metrics

What `fedrebasin exporter --runs DIR` serves on port 9464, from the run store: of each federation its newest run. Units
are base units, losses and barriers nats, ratios mostly 0..1. Text is in the labels of an `_info`, whose value is 1. No
label counts rounds or runs; which run it is, `/health` says. `site`, `group` and `layer` are as many as there are. What
was not measured in the last merge is absent, not 0. How to look at all this: [observing a federation](observing.md).

{metrics_table()}
"""
PAGES = {"docs/settings.md": SETTINGS, "docs/metrics.md": METRICS, **dashboards()}


def main() -> None:
    """Writes, or checks, every page."""
    stale = [name for name, text in PAGES.items() if _read(ROOT / name) != text]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run `make pages`" if stale else 0)
    for name in stale:
        (ROOT / name).write_text(PAGES[name], encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
