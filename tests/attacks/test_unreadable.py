"""A reply whose parts are not what they say they are: Flower fails at it, which costs its site the turn, and no run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import Message as Proto
from flwr.proto.message_pb2 import Metadata
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content

from client.app import app
from server.app import play
from server.resume import begin
from server.store import RunStore
from server.summary import read_rounds
from strategies.exchange import exchange
from strategies.protocol import DESCRIBE, EVALUATE, TRAIN, request
from tests.attacks.federation import HOSTILE, HOSTILE_NAME, SETTINGS
from tests.inprocess import FIRST_NODE, InProcessGrid, Ticking, quick_settings

Parts = dict[str, bytes]


def part(kind: str, children: Iterable[str], body: bytes) -> bytes:
    """One part of a message as it crosses the wire, which the SuperLink takes."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + HEAD_BODY_DIVIDER + body
    validate_object_content(content)
    return content


def with_content(content: bytes, inner: Parts) -> Parts:
    """A message around ``content``."""
    body = Proto(metadata=Metadata(message_type=TRAIN, ttl=60)).SerializeToString()
    return {"top": part("Message", [get_object_id(content)], body), get_object_id(content): content, **inner}


def with_record(record: bytes) -> Parts:
    """A message that holds one record."""
    key = get_object_id(record)
    return with_content(part("RecordDict", [key], json.dumps({"metrics": key}).encode()), {key: record})


HOSTILE_PARTS = {
    "no record": with_record(part("ConfigRecord", [], b"\xff\xff\xff")),
    "no metrics": with_record(part("MetricRecord", [], b"\xff\xff\xff")),
    "no JSON": with_record(part("ArrayRecord", [], b"{")),
    "content of another kind": with_content(part("ArrayRecord", [], b"{}"), {}),
    "no message": {"top": part("RecordDict", [], b"{}")},
    "a part is missing": {"top": part("Message", ["0" * 64], b"")},
}


@dataclass
class Inflating(InProcessGrid):
    """As Flower's HttpGrid: the hostile site's reply is taken, then put together from ``parts``, once."""

    parts: Parts | None = None
    kind: str = TRAIN

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies, once."""
        found = list(super().pull_messages(message_ids))
        for reply in found:
            hostile = reply.metadata.src_node_id == FIRST_NODE + HOSTILE and reply.metadata.message_type == self.kind
            if hostile and self.parts is not None:
                parts, self.parts = self.parts, None
                message = inflate_object_from_contents("top", dict(parts))
                assert isinstance(message, Message)
                return [message]
        return found


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_what_flower_cannot_put_together_costs_the_turn(tmp_path: Path, name: str) -> None:
    assert_refused(tmp_path, name, TRAIN)


def test_so_it_is_with_what_is_asked_later_in_a_round(tmp_path: Path) -> None:
    assert_refused(tmp_path, "no record", EVALUATE)


def assert_refused(directory: Path, name: str, kind: str) -> None:
    settings = quick_settings(directory, **SETTINGS)
    store = RunStore(directory / settings.run)
    with store.held():
        play(Inflating(app, settings, 3, parts=HOSTILE_PARTS[name], kind=kind), settings, store, begin(store, settings))
    rounds = read_rounds(store)
    assert [record.outcome for record in rounds] == ["merged", "merged"]
    assert [(each.site, each.reason) for each in rounds[0].refused] == [(HOSTILE_NAME, "MALFORMED")]
    assert "cannot put the reply together" in rounds[0].refused[0].detail
    assert rounds[1].refused == []


def test_who_cannot_be_read_when_it_is_asked_for_its_name_joins_later(tmp_path: Path) -> None:
    grid = Inflating(app, quick_settings(tmp_path), 3, parts=HOSTILE_PARTS["no record"], kind=DESCRIBE)
    asked = [request(FIRST_NODE + site, DESCRIBE, RecordDict(), 1, 60) for site in range(3)]
    replies = dict(exchange(grid, asked, 5.0, Ticking().clock()))
    assert {node: reply is not None and reply.has_error() for node, reply in replies.items()} == {
        FIRST_NODE: False,
        FIRST_NODE + 1: True,
        FIRST_NODE + 2: False,
    }


class Gone(InProcessGrid):
    """The SuperLink cannot be reached."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Nothing."""
        raise httpx.ConnectError("gone")


def test_a_superlink_that_is_gone_is_no_sites_fault(tmp_path: Path) -> None:
    asked = [request(FIRST_NODE, DESCRIBE, RecordDict(), 1, 60)]
    with pytest.raises(httpx.ConnectError):
        list(exchange(Gone(app, quick_settings(tmp_path), 1), asked, 5.0, Ticking().clock()))
