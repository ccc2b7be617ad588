"""Where the command starts: ready to be interrupted from its first moment."""

import signal


def main() -> None:
    """Runs the command. While it is still being imported, Ctrl-C ends the process without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
