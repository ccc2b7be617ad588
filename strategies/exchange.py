"""Messages out, replies in, one at a time as they arrive."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import TypeVar

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

logger = getLogger("fedrebasin")
T = TypeVar("T")
# The code of a reply that Flower cannot put together; none of Flower's own codes.
UNREADABLE = 1000
# What the way to the SuperLink raises; all else that a pull raises comes of what a site sent.
TRANSPORT = (httpx.HTTPError, ObjectPushError, OSError)


@dataclass(frozen=True)
class Clock:
    """Where time comes from: a test hands in its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def persistent(call: Callable[[], T], ends: float, clock: Clock) -> T:
    """What ``call`` of a grid returns; until ``ends`` it is made again where the SuperLink broke off or failed."""
    while True:
        try:
            return call()
        except (ObjectPushError, httpx.HTTPStatusError) as error:
            if not _passes(error) or clock.now() >= ends:
                raise
            logger.warning("asked once more: %s", error)
            clock.sleep(1.0)


def _passes(error: ObjectPushError | httpx.HTTPStatusError) -> bool:
    """Whether the next try may succeed: 5xx, as where the SuperLink's database was locked, but no refusal.

    Flower itself asks again only where nobody answers.
    """
    return isinstance(error, ObjectPushError) or error.response.is_server_error


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    deadline_seconds: float,
    clock: Clock | None = None,
    *,
    one_by_one: bool = False,
) -> Iterator[tuple[int, Message | None]]:
    """Each asked node with its reply, in order of arrival; with None for those that are silent at the deadline.

    What messages share is sent once; those of which each holds its own are sent ``one_by_one``, and no more than two
    are in memory.

    Flower's own ``send_and_receive`` waits for all replies, holds them all and looks only every three seconds.
    Here the pause grows with the wait: short trips stay short, and long ones leave the SuperLink alone.
    A reply of Flower's own making (expired, node gone) carries the SuperLink as its source, so it is told by the
    message that it answers; a reply to another message, or a second one, is not heard.
    """
    time_of = clock or Clock()
    ends = time_of.now() + deadline_seconds
    waiting: dict[str, int] = {}
    for sent in ([message] for message in messages) if one_by_one else [list(messages)]:
        waiting |= send(grid, sent, ends, time_of)
    yield from receive(grid, waiting, time_of, lambda: ends)
    for node_id in waiting.values():
        yield node_id, None


def send(grid: Grid, messages: Sequence[Message], ends: float, clock: Clock) -> dict[str, int]:
    """Sends, until ``ends`` again where the SuperLink broke off; returns whom a message went to, by its number."""
    return dict(zip(_push(grid, messages, ends, clock), (m.metadata.dst_node_id for m in messages), strict=True))


def receive(
    grid: Grid, waiting: dict[str, int], clock: Clock, ends: Callable[[], float]
) -> Iterator[tuple[int, Message]]:
    """Nodes with their replies, in order of arrival, until there is nobody to wait for or the clock is at ``ends()``.

    ``waiting`` has the nodes by the numbers of the messages that they were sent; those that stay there are silent.
    """
    began = clock.now()
    while waiting:
        # One at a time: a pull of several would hold them all in memory at once.
        for message_id in list(waiting):
            for reply in _pull(grid, message_id, clock):
                if message_id in waiting and reply.metadata.reply_to_message_id == message_id:
                    yield waiting.pop(message_id), reply
        now = clock.now()
        if not waiting or now >= ends():
            break
        # Each look asks the SuperLink once for each silent site: after 2 % of the wait so far, from 0.1 to 3 seconds.
        clock.sleep(min(max(0.1, (now - began) / 50), 3.0, ends() - now))


def _pull(grid: Grid, message_id: str, clock: Clock) -> Iterable[Message]:
    """The reply to a message, if it is there; an error in its place where Flower cannot put it together.

    Flower believes each part of a reply to be what it says it is, and has taken the reply from the SuperLink by then:
    there is nothing to ask for again. A SuperLink that failed is asked again with the next look, which may be none.
    """
    try:
        return grid.pull_messages([message_id])
    except httpx.HTTPStatusError as error:
        if not _passes(error):
            raise
        logger.warning("asked once more: %s", error)
        clock.sleep(1.0)
        return []
    except TRANSPORT:
        raise
    except Exception as error:
        logger.warning("a reply cannot be put together", exc_info=True)
        return [_unreadable(message_id, type(error).__name__)]


def _unreadable(message_id: str, kind: str) -> Message:
    """What stands for a reply that cannot be read; only the kind of the failure, since its text is the site's."""
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=message_id,
        group_id="",
        created_at=time.time(),
        ttl=1.0,
        message_type="query",
    )
    return make_message(metadata, error=Error(UNREADABLE, f"Flower cannot put the reply together: {kind}"))


def _push(grid: Grid, messages: Sequence[Message], ends: float, clock: Clock) -> list[str]:
    """Sends; returns the numbers."""
    numbers = persistent(lambda: grid.push_messages(messages), ends, clock)
    # Sent once more, a message that the SuperLink has already, since only its answer was lost, gets no number.
    return [number or sent.metadata.message_id for number, sent in zip(numbers, messages, strict=True)]
