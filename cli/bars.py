"""Progress on standard error: one line for each stretch of work."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.output import progress

Advance = Callable[[], None]


class Bars:
    """Bars that vanish when the work is done, so that only results stay on the screen."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    @contextmanager
    def stretch(self, title: str, steps: int | None = None, done: int = 0) -> Generator[Advance]:
        """A bar, of unknown length without ``steps``, of which some are ``done``; and what to call after each more."""
        task = self._bars.add_task(title, total=steps, completed=done)
        try:
            yield lambda: self._bars.advance(task)
        finally:
            self._bars.remove_task(task)


@contextmanager
def bars() -> Generator[Bars]:
    """Bars for as long as the block runs; nothing where standard error is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as shown:
        yield Bars(shown)
