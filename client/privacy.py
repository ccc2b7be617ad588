"""Flower's differential privacy around what a site sends: on floating tensors, after alignment.

Flower's mods clip all arrays of a reply as one vector. BatchNorm's counters of batches are among them, grow by one a
step, and would be nearly all of its norm; so integers are taken out of the request and the reply that a mod sees.
"""

from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod

from strategies.errors import SettingsError
from strategies.protocol import ARRAYS, CONFIG
from strategies.settings import Settings, parse_settings

Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]
client_raised = 2  # Flower's code for an exception in a ClientApp
CLIPPING_NORM = "clipping_norm"  # where Flower's mod looks for it


def private(message: Message, context: Context, call_next: Handler) -> Message:
    """The answer to ``message`` as the run's setting ``privacy`` wants it to leave the site."""
    try:
        settings = parse_settings(context.run_config)
    except SettingsError:
        # The handler says so itself, without a word of it leaving the site.
        return call_next(message, context)
    if settings.privacy not in ("clipping", "local-dp"):
        return call_next(message, context)
    try:
        return floats_only(_mod(settings))(message, context, call_next)
    except Exception as error:
        # The text of an exception may quote what must stay here.
        return Message(Error(client_raised, f"{type(error).__name__} in {settings.privacy}"), reply_to=message)


def floats_only(mod: Mod) -> Mod:
    """``mod``, to which integer tensors are not shown; the answer's own are put back afterwards."""

    def around(message: Message, context: Context, call_next: Handler) -> Message:
        asked = message.content.array_records[ARRAYS]
        integers: dict[str, ArrayRecord] = {}

        def inner(shown: Message, inner_context: Context) -> Message:
            shown.content[ARRAYS] = asked
            reply = call_next(shown, inner_context)
            if reply.has_content() and ARRAYS in reply.content.array_records:
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
        return LocalDpMod(settings.clipping_norm, settings.dp_sensitivity, settings.dp_epsilon, settings.dp_delta)

    def clipping(message: Message, context: Context, call_next: Handler) -> Message:
        config = message.content.config_records.get(CONFIG, ConfigRecord())
        message.content[CONFIG] = ConfigRecord({**config, CLIPPING_NORM: settings.clipping_norm})
        return fixedclipping_mod(message, context, call_next)

    return clipping
