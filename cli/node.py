"""Flower's SuperNode, as a process that is over when it has failed, and that answers the question it was asked.

Where it is refused, as by a proxy that has not let the site in yet, its main thread ends with an exception. The thread
that serves the site's ClientApps would keep the process there for ever, with nothing to do and nobody to see it.

Where a run ends while a message of it is on its way, `take_in` clears away what Flower leaves of it.

python -P -m cli.node OPTIONS OF flower-supernode
"""

import logging
import os
import traceback
from collections.abc import Callable
from typing import Any

from flwr.common import Message
from flwr.common.constant import SubStatus
from flwr.supercore.object_store import ObjectStore
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.nodestate import NodeState

# By this name Flower's loop finds the step that it repeats.
STEP = "_pull_and_store_message"
_flowers_step: Callable[..., int | None] = getattr(flower, STEP)


def take_in(
    *,
    state: NodeState,
    object_store: ObjectStore,
    receive: Callable[[], tuple[Message, Any] | None],
    **connection: Any,
) -> int | None:
    """Flower's own step, that takes in one message for a ClientApp; the run's id, or None where nothing is to be done.

    Flower forgets a message whose run ended while it came, but not the task that it had made of it. That task's
    ClientApp waits for the message's parts, for an hour and more; or, where all of them had come, answers. An answer
    that nobody waits for is taken for that to the next question, whose own is then taken for that to the one after
    it: the site is late with everything until it is started again. So the task ends with its message.
    """
    taken: list[Message] = []

    def noted() -> tuple[Message, Any] | None:
        received = receive()
        if received is not None:
            taken.append(received[0])
        return received

    before = {task.task_id for task in state.get_tasks()}
    run = _flowers_step(state=state, object_store=object_store, receive=noted, **connection)
    if run is None and taken:
        # A task that has ended can answer no more, so that what is cleared away stays away.
        for task in state.get_tasks():
            if task.task_id not in before:
                state.finish_task(task.task_id, SubStatus.STOPPED, "its run ended while its message came")
        # Flower takes in one message at a time: there are no others.
        state.delete_messages()
        object_store.delete(taken[0].metadata.message_id)
    return run


def main() -> None:
    """Runs the SuperNode until it ends. What Flower does not expect ends the process at once, with code 1."""
    setattr(flower, STEP, take_in)
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
