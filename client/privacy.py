"""Flower's differential privacy around what a site sends: on floating tensors, after alignment.

Flower's mods clip all arrays of a reply as one vector. BatchNorm's counters of batches are among them, grow by one a
step, and would be nearly all of its norm; so integers are taken out of the request and the reply that a mod sees.
"""

from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod

from client.handlers import Handler, scrubbed
from strategies.errors import OperatorError
from strategies.protocol import ARRAYS, CONFIG, DESCRIBE, EVALUATE, METRICS, N_EXAMPLES, RECALIBRATE, TRAIN, metrics_of
from strategies.settings import Settings, parse_settings

Mod = Callable[[Message, Context, Handler], Message]
CLIPPING_NORM = "clipping_norm"  # where Flower's mod looks for it
# What a site answers in a run with privacy. All else asks for networks, or statistics, that are not covered by it.
ANSWERED = frozenset({DESCRIBE, TRAIN, RECALIBRATE, EVALUATE})


def check_answered(settings: Settings, message_type: str) -> None:
    """Raises `OperatorError` where a site does not answer such messages in a run with these settings."""
    if settings.privacy != "none" and message_type not in ANSWERED:
        raise OperatorError(f"asked for {message_type} in a run with privacy = {settings.privacy!r}: not answered")


def private(message: Message, context: Context, call_next: Handler) -> Message:
    """The answer to ``message`` as the run's setting ``privacy`` wants it to leave the site."""

    def covered(asked: Message, inner: Context) -> Message:
        settings = parse_settings(inner.run_config)
        if settings.privacy not in ("clipping", "local-dp"):
            return call_next(asked, inner)
        return floats_only(_mod(settings))(asked, inner, bare(call_next))

    return scrubbed(covered)(message, context)


def bare(handler: Handler) -> Handler:
    """``handler``, of whose answer the network and its number of samples are left."""

    def wrapped(message: Message, context: Context) -> Message:
        reply = handler(message, context)
        if reply.has_content():
            counted = MetricRecord({N_EXAMPLES: metrics_of("", reply)[N_EXAMPLES]})
            reply.content = RecordDict({ARRAYS: reply.content.array_records[ARRAYS], METRICS: counted})
        return reply

    return wrapped


def floats_only(mod: Mod) -> Mod:
    """``mod``, to which integer tensors are not shown; the answer's own are put back afterwards."""

    def around(message: Message, context: Context, call_next: Handler) -> Message:
        asked = message.content.array_records[ARRAYS]
        integers: dict[str, ArrayRecord] = {}

        def inner(shown: Message, inner_context: Context) -> Message:
            shown.content[ARRAYS] = asked
            reply = call_next(shown, inner_context)
            if reply.has_content():
                integers[ARRAYS] = reply.content.array_records[ARRAYS]
                reply.content[ARRAYS] = _floats(integers[ARRAYS])
            return reply

        message.content[ARRAYS] = _floats(asked)
        reply = mod(message, context, inner)
        if ARRAYS in integers and reply.has_content():
            private = reply.content.array_records[ARRAYS]
            whole = integers[ARRAYS]
            reply.content[ARRAYS] = ArrayRecord({name: private.get(name, whole[name]) for name in whole})
        return reply

    return around


def _floats(record: ArrayRecord) -> ArrayRecord:
    return ArrayRecord({name: array for name, array in record.items() if array.dtype.startswith("float")})


def _mod(settings: Settings) -> Mod:
    if settings.privacy == "local-dp":
        norm = settings.clipping_norm
        # Two updates that are clipped to a norm lie at most twice that apart, whatever data they come from.
        return LocalDpMod(norm, 2 * norm, settings.dp_epsilon, settings.dp_delta)

    def clipping(message: Message, context: Context, call_next: Handler) -> Message:
        config = message.content.config_records.get(CONFIG, ConfigRecord())
        message.content[CONFIG] = ConfigRecord({**config, CLIPPING_NORM: settings.clipping_norm})
        return fixedclipping_mod(message, context, call_next)

    return clipping
