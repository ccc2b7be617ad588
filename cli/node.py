"""Flower's SuperNode, as a process that is over when it has failed, and that answers each question once.

Where it is refused, as by a proxy that has not let the site in yet, its main thread ends with an exception. The thread
that serves the site's ClientApps would keep the process there for ever, with nothing to do and nobody to see it.

It takes in one message, waits for an answer, sends it, and takes in the next. Of two ways to lose step with that, one
is closed by `take_in` (an answer too many), the other by `Answering` (one too few).

python -P -m cli.node OPTIONS OF flower-supernode
"""

import logging
import os
import traceback
from collections.abc import Callable
from typing import Any

from flwr.common import Message
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store import ObjectStore
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.nodestate import NodeState, in_memory_nodestate, nodestate_factory

# By these names Flower finds the step that its loop repeats, and what it keeps messages in.
STEP, STATE = "_pull_and_store_message", "InMemoryNodeState"
_flowers_step: Callable[..., int | None] = getattr(flower, STEP)


class Answering(in_memory_nodestate.InMemoryNodeState):
    """Flower's messages and tasks, where a ClientApp that ended without an answer has failed to answer.

    So it is where a ClientApp dies. One that was asked to end, as an operator or a machine short of memory does, says
    so itself and is believed, and the SuperNode would wait for its answer for ever.
    """

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """Ends a task; true where it had not ended before."""
        finished = super().finish_task(task_id, sub_status, details)
        if finished and sub_status == SubStatus.FAILED:
            (task,) = self.get_tasks(task_ids=[task_id])
            # A task is made for each message. One that ends late is not the one that the next message waits for.
            (latest,) = self.get_tasks(run_ids=[task.run_id], order_by="pending_at", ascending=False, limit=1)
            if task.type == TaskType.CLIENT_APP and task_id == latest.task_id:
                # Fetched or not, no other task will ask for it.
                self.get_messages_legacy(run_ids=[task.run_id], is_reply=False)
                self._store_error_replies({task.run_id}, in_memory_nodestate.CLIENT_APP_CRASHED_ERROR)
        return finished


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
    taken: dict[Message, set[int]] = {}

    def tasks_of(message: Message) -> set[int]:
        return {task.task_id for task in state.get_tasks(run_ids=[message.metadata.run_id])}

    def noted() -> tuple[Message, Any] | None:
        received = receive()
        # Mostly there is none, and then tasks, of which Flower keeps all, are not looked at.
        if received is not None:
            taken[received[0]] = tasks_of(received[0])
        return received

    run = _flowers_step(state=state, object_store=object_store, receive=noted, **connection)
    if run is None:
        # One message at a time: there are no others.
        for message, before in taken.items():
            # A task that has ended can answer no more, so that what is cleared away stays away.
            for task in tasks_of(message) - before:
                state.finish_task(task, SubStatus.STOPPED, "its run ended while its message came")
            state.delete_messages()
            object_store.delete(message.metadata.message_id)
    return run


def main() -> None:
    """Runs the SuperNode until it ends. What Flower does not expect ends the process at once, with code 1."""
    setattr(flower, STEP, take_in)
    setattr(nodestate_factory, STATE, Answering)
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
