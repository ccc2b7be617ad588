"""The README's picture, from a finished run: the line between two sites' networks, naive and aligned.

python -m benchmarks.demo_figure runs/NAME docs/images/demo-path.svg
"""

import sys
from pathlib import Path

from server.drawing import path_figure
from server.store import RunStore
from server.summary import read_rounds


def main() -> None:
    """Draws the first path that the run probed."""
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    paths = next(iter(read_rounds(RunStore(run))[0].paths.values()))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(path_figure(paths), encoding="utf-8")


if __name__ == "__main__":
    main()
