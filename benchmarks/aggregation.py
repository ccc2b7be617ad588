"""Time and peak memory of aggregation on the server, side by side with Flower's FedAvg on the same replies.

python -m benchmarks.aggregation --sites 10            # time: nothing to permute, nothing moved
python -m benchmarks.aggregation --memory 5 50         # peak memory by number of sites

Replies have the size of ResNet-50 (25.6 million numbers) and are made one by one, as a stream would bring them. FedAvg
gets them as Flower hands them over, all at once. Each measurement of memory is a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor, nn

from alignment import derive_spec
from alignment.spec import PermutationSpec
from models import Architecture, build
from strategies.fed_rebasin import FedRebasin
from strategies.protocol import to_arrays
from strategies.spool import Spool

Timed = dict[str, float]


def built() -> tuple[nn.Module, list[Tensor]]:
    """A ResNet-50, and inputs for it."""
    return build(Architecture("resnet50", (3, 224, 224), 1000, 0, 0, ""), 0), [torch.zeros(1, 3, 64, 64)]


def network(seed: int) -> dict[str, Tensor]:
    """The tensors of a ResNet-50, near those of every other seed."""
    model, _ = built()
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 1e-3 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }


def reply(number: int, arrays: ArrayRecord) -> Message:
    """What site ``number`` answers."""
    asked = Message(RecordDict(), number + 1, "train")
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 100})}), reply_to=asked)


def stream(n_sites: int) -> Iterator[Message]:
    """The replies, one at a time."""
    for number in range(n_sites):
        yield reply(number, to_arrays(network(number)))


def rebasin(folder: Path, sent: dict[str, Tensor], spec: PermutationSpec | None = None) -> FedRebasin:
    """The strategy with nothing to permute, as FedAvg has; or with the groups of ``spec``, all to be found in place."""
    strategy = FedRebasin(spec=spec or PermutationSpec.by_hand(sent, {}), spool=Spool(folder))
    strategy.remember(to_arrays(sent), {}, apart=False)
    return strategy


def times(n_sites: int, repeats: int) -> Timed:
    """Median seconds of each, on the same replies in memory, alternating; and ratios to FedAvg's.

    ``recognising`` is what matching adds: all sites began at the same network, and every unit is found where it was.
    """
    sent = network(-1)
    replies = [reply(number, to_arrays(network(number))) for number in range(n_sites)]
    found: dict[str, list[float]] = {"fedavg": [], "rebasin": [], "matched": []}
    with tempfile.TemporaryDirectory() as folder:
        plain = rebasin(Path(folder) / "plain", sent)
        matched = rebasin(Path(folder) / "matched", sent, derive_spec(*built()))
        for _ in range(repeats):
            for name, strategy in (("fedavg", FedAvg()), ("rebasin", plain), ("matched", matched)):
                start = time.perf_counter()
                strategy.aggregate_train(2, replies)
                found[name].append(time.perf_counter() - start)
    rounds = [dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)]
    ratios = {
        "ratio": statistics.median(each["rebasin"] / each["fedavg"] for each in rounds),
        "recognising": statistics.median((each["matched"] - each["rebasin"]) / each["fedavg"] for each in rounds),
    }
    medians = {name: statistics.median(each) for name, each in found.items()}
    return {**medians, **ratios, "sites": n_sites, "repeats": repeats}


def peak(strategy: str, n_sites: int) -> float:
    """Megabytes of resident memory at the peak of one aggregation, above what the process had before it."""
    sent = network(-1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        if strategy == "rebasin":
            rebasin(Path(folder), sent).aggregate_train(2, stream(n_sites))
        else:
            FedAvg().aggregate_train(2, list(stream(n_sites)))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000


def main() -> None:
    """Prints what was measured, as JSON or words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[])
    parser.add_argument("--peak", choices=("rebasin", "fedavg"), help="measure this one's peak, in this process")
    arguments = parser.parse_args()
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    torch.set_num_threads(1)
    if arguments.peak:
        print(json.dumps(peak(arguments.peak, arguments.sites)))
    elif arguments.memory:
        print(json.dumps({name: {n: _peak_apart(name, n) for n in arguments.memory} for name in ("rebasin", "fedavg")}))
    else:
        print(json.dumps(times(arguments.sites, arguments.repeats)))


def _peak_apart(name: str, n_sites: int) -> float:
    command = [sys.executable, "-m", "benchmarks.aggregation", "--peak", name, "--sites", str(n_sites)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
