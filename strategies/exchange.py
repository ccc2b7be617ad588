"""Messages out, replies in, one at a time as they arrive."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid


@dataclass(frozen=True)
class Clock:
    """Where time comes from: a test hands in its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def exchange(
    grid: Grid, messages: Iterable[Message], deadline_seconds: float, clock: Clock | None = None
) -> Iterator[tuple[int, Message | None]]:
    """Each asked node with its reply, in order of arrival; with None for those that are silent at the deadline.

    Flower's own ``send_and_receive`` waits for all replies, holds them all and looks only every three seconds.
    A reply of Flower's own making (expired, node gone) carries the SuperLink as its source, so it is told by the
    message that it answers; a reply to another message, or a second one, is not heard.
    """
    clock = clock or Clock()
    sent = list(messages)
    waiting = dict(zip(grid.push_messages(sent), (m.metadata.dst_node_id for m in sent), strict=True))
    ends = clock.now() + deadline_seconds
    while waiting:
        # One at a time: a pull of several would hold them all in memory at once.
        for message_id in list(waiting):
            for reply in grid.pull_messages([message_id]):
                if message_id in waiting and reply.metadata.reply_to_message_id == message_id:
                    yield waiting.pop(message_id), reply
        if waiting and clock.now() >= ends:
            break
        if waiting:
            clock.sleep(0.1)
    for node_id in waiting.values():
        yield node_id, None
