"""What Flower's SecAgg+ workflow takes for granted in a reply, stage by stage, and does not look at before it uses it.

A reply that lacks it costs its site the turn, as one that never came. What only other sites, or nobody, can look at
(the ciphertexts of shares, the numbers under a mask, a share itself) is not told here: it makes the round void.
"""

from collections.abc import Callable
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import recorddict_to_fitres
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, generate_key_pairs

from strategies.errors import Reason, RefusedReply


def readable(site: str, asked: Message, reply: Message, most_samples: int) -> Message:
    """The reply, if Flower can read it; raises `RefusedReply` if not, or where it weighs more than ``most_samples``."""
    stage = stage_of(asked)
    # Flower goes by the sender that a reply names, which whoever sends it writes.
    if (named := reply.metadata.src_node_id) != asked.metadata.dst_node_id:
        raise RefusedReply(Reason.MALFORMED, site, f"{stage}: in the name of node {named}, which is another")
    try:
        said = reply.content.config_records[RECORD_KEY_CONFIGS]
        sound = CHECKS[stage](asked, said) if stage in CHECKS else _weighs(reply.content, most_samples)
    # Whatever the libraries raise at bytes from elsewhere, it is the site's fault.
    except Exception as error:
        raise RefusedReply(Reason.MALFORMED, site, f"{stage}: {type(error).__name__}") from error
    if not sound:
        raise RefusedReply(Reason.MALFORMED, site, f"{stage}: not what was asked for")
    return reply


def stage_of(message: Message) -> str:
    """The stage of the protocol that a message of the server opens."""
    return str(message.content.config_records[RECORD_KEY_CONFIGS].get(Key.STAGE))


def _has_keys(asked: Message, said: ConfigRecord) -> bool:
    """Two public keys, with which others can agree on a secret: a bad one would fail at every site, not at this."""
    keys = [cast(bytes, said[key]) for key in (Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2)]
    for key in keys:
        generate_shared_key(generate_key_pairs()[0], bytes_to_public_key(key))
    return keys[0] != keys[1]


def _has_ciphertexts(asked: Message, said: ConfigRecord) -> bool:
    """One for each other site that it was told of."""
    told = {int(key) for key in asked.content.config_records[RECORD_KEY_CONFIGS] if key != Key.STAGE}
    others = sorted(told - {asked.metadata.dst_node_id})
    return sorted(cast(list[int], said[Key.DESTINATION_LIST])) == others and _texts(said[Key.CIPHERTEXT_LIST], others)


def _has_shares(asked: Message, said: ConfigRecord) -> bool:
    """One for each site that it was asked about, in that order."""
    config = asked.content.config_records[RECORD_KEY_CONFIGS]
    keys = (Key.ACTIVE_NODE_ID_LIST, Key.DEAD_NODE_ID_LIST)
    owners = [node for key in keys for node in cast(list[int], config[key])]
    return said[Key.NODE_ID_LIST] == owners and _texts(said[Key.SHARE_LIST], owners)


def _texts(values: object, beside: list[int]) -> bool:
    """Whether these are bytes, one for each of ``beside``."""
    texts = cast(list[object], values)
    return len(texts) == len(beside) and all(isinstance(text, bytes) and text for text in texts)


def _weighs(content: RecordDict, most_samples: int) -> bool:
    """A fit result of a weight that the sum has room for; its arrays are looked at elsewhere."""
    examples: object = recorddict_to_fitres(content, keep_input=True).num_examples
    return type(examples) is int and 0 < examples <= most_samples


CHECKS: dict[str, Callable[[Message, ConfigRecord], bool]] = {
    Stage.SETUP: _has_keys,
    Stage.SHARE_KEYS: _has_ciphertexts,
    Stage.UNMASK: _has_shares,
}
