"""Writes the pages that are made from the code; with ``--check``, fails when one is out of date.

docs/settings.md           from `strategies.settings.Settings`, grouped by `scripts.settings`
docs/exit-codes/README.md  from the classes that carry the codes, and `strategies.errors.Reason`
docs/rounds.md             from `server.records`
docs/metrics.md            from `server.metrics.CATALOGUE`
deploy/grafana             the dashboards, from the same and `scripts.dashboards`
"""

import sys
from pathlib import Path

from scripts.dashboards.build import dashboards
from scripts.exit_codes import exit_code_table
from scripts.records import records_tables
from scripts.settings import settings_tables
from server.metrics import metrics_table
from strategies.errors import Reason

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = f"""# Settings of a run

The run config is a flat table in TOML, which server and sites read. This page has every key of it, by subject.
`fedrebasin settings FILE.toml` reads it as a run would. It names what is wrong: the nearest neighbour of a misspelt
key, or what was expected and got. Else it shows what every setting will be, marks those that differ from the defaults,
and tells what a round moves to and from each site at most. To play a run on this machine, with so many simulated sites:

```
fedrebasin demo --run-config FILE.toml --sites 3
```

Most runs change these alone: `model`, `width`, `shape`, `classes`, `class-names`, `min-sites`, `rounds`, `epochs`, and
`merge`, `head` and `mix` by [what suits the sites' labels](merge-quality.md#what-to-set).

In a deployment, [`fedrebasin server run`](server-guide.md#start-a-run) plays it; in a Flower environment of your own,
`flwr run . --run-config FILE.toml --stream`. Flower then

- builds a Python environment for the run, unless `FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1` says that it has all;
- needs its own commands on `PATH`;
- refuses a key that this page does not have with "Invalid run configuration", and does not say which.

A wrong value stops a run at its start. The reason stands in `status.json` of the run's folder, and in the log above
Flower's "Exit Code: 700". [`rounds.jsonl`](rounds.md) has what `baselines` and `variants` measure. `make pages` renews
this page from `strategies/settings.py` and `scripts/settings.py`.

{settings_tables()}

## Settings of a site

A site sets these itself, in the node config of its SuperNode:
`flower-supernode --node-config "name='site-us' data='/data'"`.

| setting | default | what it says |
| --- | --- | --- |
| `name` | `site` | The site's name; the name under which its SuperNode was registered wins |
| `data` | the run's | Where the site's samples are |
| `state-dir` | `~/.fedrebasin` | Folder of its networks: two rounds; with `distillation`, `keep-checkpoints` + 1 |
| `threads` | all | Torch threads |
| `checkpoint` | none | Safetensors file of a trained network to join with (`start = "checkpoint"`) |
"""
REASONS = "\n".join(f"| `{reason.name}` | {reason.words} | {reason.advice} |" for reason in Reason)
EXIT_CODES = f"""# Exit codes

`fedrebasin` ends with one of these codes. A run that failed says its code as `exit-code` in its `status.json`.
`make pages` renews this page.

{exit_code_table()}

## Why a reply was refused

A refusal ends neither run nor round. The site is asked nothing more in that round (after `DUPLICATE` it is), and is
asked again in the next. If its network came before and stands under `weights`, it is in the merge all the same.
`rounds.jsonl` has the reasons.

| reason | what it means | what to do |
| --- | --- | --- |
{REASONS}
"""
METRICS = f"""# Metrics

`fedrebasin exporter --runs DIR` serves these metrics on port 9464, from the run store. It shows one run of each
federation: the one that is being played, else the one last heard of. `/health` says which run that is.

Units are base units; losses and barriers are in nats, ratios mostly 0..1. Text stands in the labels of an `_info`,
whose value is 1. No label counts rounds or runs. `site`, `group` and `layer` have as many values as there are. What was
not measured in the last merge is absent, not 0. The union is the held-out samples of all sites together.
[Observing a federation](observing.md) says how to look at all this.

{metrics_table()}
"""
ROUNDS = f"""# The lines of `rounds.jsonl`

The file lies in the folder of its run and has one line of JSON for each finished round; `server.records` reads it.
Losses and barriers are in nats; ratios and accuracies are 0..1. A field without a value is null, `""`, or an empty
object or list. `report.html` shows most of the fields. `make pages` renews this page from `server/records.py`.

{records_tables()}
"""
PAGES = {
    "docs/settings.md": SETTINGS,
    "docs/exit-codes/README.md": EXIT_CODES,
    "docs/rounds.md": ROUNDS,
    "docs/metrics.md": METRICS,
    **dashboards(),
}


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
