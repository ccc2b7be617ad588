"""Flower's SuperNode, as a process that is over when it has failed.

Where it is refused, as by a proxy that has not let the site in yet, its main thread ends with an exception. The thread
that serves the site's ClientApps would keep the process there for ever, with nothing to do and nobody to see it.

python -P -m cli.node OPTIONS OF flower-supernode
"""

import logging
import os
import traceback

from flwr.supernode.cli.flower_supernode import flower_supernode


def main() -> None:
    """Runs the SuperNode until it ends. What Flower does not expect ends the process at once, with code 1."""
    try:
        flower_supernode()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        # Flower's own, of which not all are an `Exception`.
        traceback.print_exc()
        logging.shutdown()
        # Not by `sys.exit`, which waits for threads.
        os._exit(1)


if __name__ == "__main__":
    main()
