"""Which node a reply of Flower's loop is from, and which nodes gave none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from flwr.app import Message, Metadata


def by_name(
    replies: Iterable[Message], names: Mapping[int, str], asked: Sequence[Metadata]
) -> Iterator[tuple[str, Message | None]]:
    """Each reply with its node's name; then None for each node that was ``asked`` and is silent.

    What Flower answers in a node's stead, gone or too late, has the SuperLink for its source: it is told by the message
    that it answers. A message has its number once it is sent; one that has none was not.
    """
    sent = {message.message_id: names[message.dst_node_id] for message in asked if message.message_id}
    silent = set(sent.values())
    for reply in replies:
        node_id = reply.metadata.src_node_id
        name = names.get(node_id) or sent.get(reply.metadata.reply_to_message_id, str(node_id))
        silent.discard(name)
        yield name, reply
    yield from ((name, None) for name in sorted(silent))
