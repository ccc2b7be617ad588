"""The demo over several seeds: real Flower runs, one after another; means and ranges as one table or JSON document.

python -m benchmarks.demo --seeds 5
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Runs the demo for each seed and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("demo", nargs="*", help="further arguments of `fedrebasin demo`, after --")
    arguments = parser.parse_args()
    found = [run(seed, arguments.demo) for seed in range(arguments.seeds)]
    values = {name: [one["accuracy"][name] for one in found] for name in found[0]["accuracy"]}
    values |= {f"barrier {stage}": [one["barrier"][stage] for one in found] for stage in ("naive", "aligned")}
    values["seconds"] = [float(str(one["seconds"])) for one in found]
    if arguments.format == "json":
        print(json.dumps({"values": values, "means": {name: statistics.mean(each) for name, each in values.items()}}))
    else:
        show(values)


def run(seed: int, demo: list[str]) -> dict[str, dict[str, float]]:
    """One demo's JSON document."""
    command = [str(Path(sys.executable).parent / "fedrebasin"), "demo", "--seed", str(seed), "--format", "json", *demo]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def show(values: dict[str, list[float]]) -> None:
    """Mean, least and greatest of each, as a table in Markdown."""
    print("| | mean | least | greatest |\n| --- | --- | --- | --- |")
    for name, each in values.items():
        print(f"| {name} | {statistics.mean(each):.3f} | {min(each):.3f} | {max(each):.3f} |")


if __name__ == "__main__":
    main()
