"""A site's SuperNode: a run that ends while a message is on its way, a ClientApp that ends without an answer.

Flower's own state and step, without a net.
"""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.common import ArrayRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode import start_client_internal as flower
from flwr.supernode.nodestate import nodestate_factory

from cli.node import STATE, STEP, Answering, take_in

RUN, NODE = 7, 5


class Node:
    """A SuperNode's state, and the step that takes in a message."""

    def __init__(self) -> None:
        self.objects: ObjectStore = ObjectStoreFactory().store()
        self.state = Answering(self.objects)
        self.state.store_run(Run.create_empty(RUN))
        self.tokens: list[str] = []

    def receive(self, message: Message, confirm: Callable[[], None], step: Callable[..., int | None]) -> int | None:
        """Takes in ``message``; a ClientApp claims its task before the last part has come, and ``confirm`` is last."""
        parts = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}

        def part(run: int, key: str) -> bytes:
            return parts[key]

        def confirmed(run: int, message_id: str) -> None:
            (task,) = (each for each in self.state.get_tasks() if not each.starting_at)
            token = self.state.claim_task(task.task_id)
            assert token is not None
            self.tokens.append(token)
            assert self.state.activate_task(task.task_id)
            confirm()

        return step(
            state=self.state,
            object_store=self.objects,
            node_config={},
            receive=lambda: (message, get_object_tree(message)),
            get_run=Run.create_empty,
            get_fab=None,  # of a run that is known it is not asked
            pull_object=part,
            confirm_message_received=confirmed,
            trusted_entities=None,
        )

    def answer(self, message: Message) -> str:
        """What a ClientApp does that answers ``message``; the answer's id."""
        (asked,) = self.state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
        assert asked.metadata.message_id == message.metadata.message_id
        reply = named(Message(RecordDict({"arrays": ArrayRecord([np.ones(1)])}), reply_to=message))
        session = self.state.start_session(RUN)
        self.state.store_message_and_object_tree(reply, get_object_tree(reply), session)
        return reply.metadata.message_id

    def end(self, task: int, how: str = SubStatus.FAILED) -> bool:
        """What the ClientApp of the task that was made as the ``task``-th says when it ends."""
        made = self.state.get_tasks(order_by="pending_at")
        return self.state.finish_task(made[task].task_id, how, "")

    def answers(self) -> list[Message]:
        """The answers that are to be sent."""
        return list(self.state.get_messages_legacy(is_reply=True))


def question(number: int) -> Message:
    """A message of the run to this site."""
    content = RecordDict({"arrays": ArrayRecord([np.full(3, number)])})
    about = Metadata(RUN, "", 1, NODE, "", str(number), 0.0, 60.0, "train")
    return named(make_message(content=content, metadata=about))


def named(message: Message) -> Message:
    """The message with its id, as Flower's own code gives it one."""
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def refuse() -> None:
    """What a SuperLink's answer becomes where the run has ended."""
    raise RunNotRunningException


def test_of_a_message_whose_run_ended_while_it_came_nothing_is_left() -> None:
    node = Node()
    assert node.receive(question(1), refuse, take_in) is None
    assert node.state.get_task_by_token(node.tokens[0]) is None
    assert not node.state.get_messages_legacy()
    assert len(node.objects) == 0


def test_the_next_question_is_answered_with_its_own_answer() -> None:
    node = Node()
    first, second = question(1), question(2)

    def answer_and_refuse() -> None:
        node.answer(first)
        refuse()

    assert node.receive(first, answer_and_refuse, take_in) is None
    assert node.receive(second, lambda: None, take_in) == RUN
    assert node.answers() == []
    own = node.answer(second)
    assert [each.metadata.message_id for each in node.answers()] == [own]


def test_a_message_that_came_whole_is_there_for_its_client_app() -> None:
    node = Node()
    assert node.receive(question(1), lambda: None, take_in) == RUN
    assert node.state.get_task_by_token(node.tokens[0]) is not None
    assert len(node.state.get_messages_legacy(is_reply=False)) == 1


def test_a_client_app_that_ends_without_an_answer_has_failed_to_answer() -> None:
    node = Node()
    node.receive(question(1), lambda: None, take_in)
    node.state.get_messages_legacy(is_reply=False)
    assert node.end(0)
    (answer,) = node.answers()
    assert (answer.has_error(), answer.metadata.reply_to_message_id) == (True, question(1).metadata.message_id)
    assert not node.end(0)
    assert node.answers() == []


def test_so_has_one_that_had_not_fetched_the_question() -> None:
    node = Node()
    node.receive(question(1), lambda: None, take_in)
    node.end(0)
    assert [answer.has_error() for answer in node.answers()] == [True]


@pytest.mark.parametrize("how", [SubStatus.COMPLETED, SubStatus.FAILED])
def test_an_answer_is_the_only_one_however_its_client_app_ends(how: str) -> None:
    """One that raised has answered with its error."""
    node = Node()
    node.receive(question(1), lambda: None, take_in)
    node.answer(question(1))
    node.end(0, how)
    assert [answer.has_error() for answer in node.answers()] == [False]


def test_a_client_app_that_ends_late_does_not_answer_for_the_next() -> None:
    node = Node()
    for number in (1, 2):
        node.receive(question(number), lambda: None, take_in)
        if number == 1:
            node.answer(question(1))
            (sent,) = node.answers()
            node.state.delete_messages(message_ids=[sent.metadata.message_id, sent.metadata.reply_to_message_id])
    node.end(0)
    assert node.answers() == []
    node.answer(question(2))
    assert [answer.has_error() for answer in node.answers()] == [False]


def test_flower_itself_leaves_the_task() -> None:
    """What `take_in` is for. Where this fails, Flower has mended it, and `take_in` can go."""
    node = Node()
    assert node.receive(question(1), refuse, getattr(flower, STEP)) is None
    assert node.state.get_task_by_token(node.tokens[0]) is not None


def test_flowers_loop_finds_the_step_by_its_name() -> None:
    assert STEP in flower.start_client_internal.__code__.co_names


def test_flower_keeps_messages_in_what_it_finds_by_its_name() -> None:
    assert STATE in nodestate_factory.NodeStateFactory.state.__code__.co_names
