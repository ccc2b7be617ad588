"""Seconds, peak memory and objective of weight matching, beside plain Algorithm 1 and PyPI's `rebasin`.

    python -m benchmarks.matching                       every work, three interleaved rounds, as a table
    python -m benchmarks.matching --format json         the same as JSON
    python -m benchmarks.matching --work resnet50-copy --rounds 5 --threads 2

`rebasin` is the optional extra `benchmarks`; without it the rest is measured all the same.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.matching_peers import PEERS, Outcome, is_installed
from benchmarks.matching_work import WORKS, Pair, Work
from benchmarks.measure import Measured, measure


@dataclass(frozen=True)
class Row:
    """One peer on one work. Seconds: the median; peak: the most that any round added to the resident set."""

    work: str
    peer: str
    seconds: float
    cpu_seconds: float
    rounds: int
    peak_mb: float
    state_mb: float
    objective: float
    sweeps: int | None
    exact_groups: int | None
    n_groups: int
    function_change: float
    accuracies: tuple[float, float] | None


@dataclass(frozen=True)
class Sample:
    """One peer on one work in one round."""

    measured: Measured[Any]
    outcome: Outcome


def main() -> None:
    """Prints the rows of the works asked for."""
    options = _options()
    torch.set_num_threads(options.threads)
    if not is_installed("rebasin"):
        print("rebasin is not installed, so it is left out; pip install 'fedrebasin[benchmarks]'", file=sys.stderr)
    rows = [
        row
        for work in WORKS
        if options.work in (None, work.name)
        for row in _rows(work, options.rounds, _peers(work, options.skip))
    ]
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.format == "json" else _table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=[work.name for work in WORKS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip", nargs="*", default=[], choices=list(PEERS), help="peers to leave out")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    return parser.parse_args()


def _peers(work: Work, skipped: Sequence[str]) -> list[str]:
    return [
        peer for peer in ("ours", *work.peers) if peer not in skipped and (peer != "rebasin" or is_installed("rebasin"))
    ]


def _rows(work: Work, rounds: int, peers: Sequence[str]) -> list[Row]:
    pair = work.make()
    samples = [(peer, _sample(pair, peer)) for _ in range(rounds) for peer in peers]
    return [_row(work, pair, peer, [sample for other, sample in samples if other == peer]) for peer in peers]


def _sample(pair: Pair, peer: str) -> Sample:
    run = PEERS[peer](pair)
    measured = measure(run.match)
    return Sample(measured, run.outcome(measured.result))


def _row(work: Work, pair: Pair, peer: str, samples: Sequence[Sample]) -> Row:
    state = pair.reference.state_dict()
    last = samples[-1].outcome
    return Row(
        work=work.name,
        peer=peer,
        seconds=median(sample.measured.seconds for sample in samples),
        cpu_seconds=median(sample.measured.cpu_seconds for sample in samples),
        rounds=len(samples),
        peak_mb=max(sample.measured.peak_bytes for sample in samples) / 2**20,
        state_mb=sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 2**20,
        objective=pair.objective(last.aligned),
        sweeps=last.sweeps,
        exact_groups=None if last.permutation is None else pair.exact(last.permutation),
        n_groups=len(pair.spec.groups),
        function_change=pair.function_change(last.aligned),
        accuracies=pair.accuracies,
    )


def _table(rows: Sequence[Row]) -> str:
    lines = ["work                peer      seconds  cpu sec.   peak MB   objective  sweeps   exact  |Δ output|"]
    for row in rows:
        exact = "" if row.exact_groups is None else f"{row.exact_groups}/{row.n_groups}"
        lines.append(
            f"{row.work:<20}{row.peer:<8}{row.seconds:>9.3f}{row.cpu_seconds:>10.3f}{row.peak_mb:>10.0f}{row.objective:>12.1f}"
            f"{row.sweeps if row.sweeps is not None else '':>8}{exact:>8}{row.function_change:>12.1e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
