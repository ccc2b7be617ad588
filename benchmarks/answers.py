"""What a site's answers take by the number of samples that go through a network at once, in the same run.

python -m benchmarks.answers --sizes 512 128

Of each answer: processor seconds (the median, and the system's share), and the most memory of the process
above what it had before. One thread, a ResNet-20 with BatchNorm on random images of 32 x 32, each in its own process.
"""

import argparse
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

import torch
from torch import Tensor, nn

from alignment.least_squares import gram_sums
from alignment.linear_layers import gram_sizes
from alignment.sequential import output_sums
from models import Architecture, build

Answer = Callable[[nn.Module, list[Tensor]], object]


def main() -> None:
    """Prints a line for each answer and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 128], help="samples at once")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(
        "| answer | samples at once | seconds | the system's share | most memory, MB |\n| --- | --- | --- | --- | --- |"
    )
    for name in ANSWERS:
        for size in arguments.sizes:
            # Memory that a process gave back would still be the most that it had.
            with ProcessPoolExecutor(1, get_context("spawn")) as apart:
                job = apart.submit(cost, name, size, arguments.width, arguments.samples, arguments.repeats)
                user, system, megabytes = job.result()
            print(
                f"| {name} | {size} | {user + system:.2f} | {100 * system / (user + system):.0f} % | {megabytes:,.0f} |"
            )


def cost(name: str, size: int, width: int, n_samples: int, repeats: int) -> tuple[float, float, float]:
    """The processor's seconds for the program and for the system, medians, and megabytes."""
    torch.set_num_threads(1)
    model = build(Architecture("resnet20", (3, 32, 32), 10, width, 20, "batch"), 0).eval()
    generator = torch.Generator().manual_seed(0)
    batches = list(torch.split(torch.randn(n_samples, 3, 32, 32, generator=generator), size))
    model(batches[0][:2])
    before = resource.getrusage(resource.RUSAGE_SELF)
    most, times = before.ru_maxrss, list[tuple[float, float]]()
    for _ in range(repeats):
        ANSWERS[name](model, batches)
        after = resource.getrusage(resource.RUSAGE_SELF)
        times.append((after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime))
        before = after
    users, systems = zip(*times, strict=True)
    return median(users), median(systems), (before.ru_maxrss - most) / 1024


@torch.no_grad()
def _evaluate(model: nn.Module, batches: list[Tensor]) -> None:
    for inputs in batches:
        model(inputs)


def _grams(model: nn.Module, batches: list[Tensor]) -> None:
    gram_sums(model, batches, [_middle(model, batches)])


def _outputs(model: nn.Module, batches: list[Tensor]) -> None:
    output_sums(model, model, batches, [_middle(model, batches)])


def _middle(model: nn.Module, batches: list[Tensor]) -> str:
    layers = list(gram_sizes(model, batches[0][:2]))
    return layers[len(layers) // 2]


ANSWERS: dict[str, Answer] = {"evaluation": _evaluate, "Gram matrix of a layer": _grams, "fit of a layer": _outputs}

if __name__ == "__main__":
    main()
