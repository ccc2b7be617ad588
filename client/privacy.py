"""Flower's differential privacy around what a site sends: on its parameters, after alignment.

Flower's mods see a message with the parameters alone, as they came and as they are answered: those of the network sent,
and of the network trained and aligned to it. So what they clip is an update between two aligned networks. Buffers do
not leave the site: the reply has those of the network sent.
"""

from collections.abc import Callable
from copy import copy

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM, get_norm

from alignment.validate import not_finite
from client.aligning import network_spec
from client.handlers import Handler, scrubbed
from models import Architecture
from strategies.errors import OperatorError
from strategies.privacy import learned, part, put_back
from strategies.protocol import (
    ARRAYS,
    CONFIG,
    METRICS,
    N_EXAMPLES,
    metrics_of,
    to_arrays,
    to_state,
)
from strategies.settings import Settings, parse_settings

Mod = Callable[[Message, Context, Handler], Message]


def private(message: Message, context: Context, call_next: Handler) -> Message:
    """The answer to ``message`` as the run's setting ``privacy`` wants it to leave the site."""

    def covered(asked: Message, inner: Context) -> Message:
        settings = parse_settings(inner.run_config)
        if settings.privacy not in ("clipping", "local-dp"):
            return call_next(asked, inner)
        return _on_parameters(_mod(settings), settings, asked, inner, bare(call_next))

    return scrubbed(covered)(message, context)


def bare(handler: Handler) -> Handler:
    """``handler``, whose answer is cut down to the network and its number of samples."""

    def wrapped(message: Message, context: Context) -> Message:
        reply = handler(message, context)
        if reply.has_content():
            counted = MetricRecord({N_EXAMPLES: metrics_of("", reply)[N_EXAMPLES]})
            reply.content = RecordDict({ARRAYS: reply.content.array_records[ARRAYS], METRICS: counted})
        return reply

    return wrapped


def _on_parameters(mod: Mod, settings: Settings, message: Message, context: Context, handler: Handler) -> Message:
    """The answer of ``handler`` as ``mod`` leaves its parameters; its buffers are those of the network sent."""
    sent = message.content.array_records[ARRAYS]
    before = part(sent, learned(network_spec(Architecture(*settings.network)), sent))
    shown = copy(message)
    shown.content = RecordDict({ARRAYS: before, CONFIG: ConfigRecord({KEY_CLIPPING_NORM: settings.clipping_norm})})

    def trained(_: Message, inner: Context) -> Message:
        reply = handler(message, inner)
        if reply.has_content():
            after = part(reply.content.array_records[ARRAYS], list(before))
            _check_finite(after)
            # Flower draws its noise from NumPy's own generator, which the site's code may have seeded.
            np.random.seed()
            reply.content[ARRAYS] = moved_apart(before, after, settings.clipping_norm)
        return reply

    reply = mod(shown, context, trained)
    if reply.has_content():
        reply.content[ARRAYS] = put_back(reply.content.array_records[ARRAYS], sent)
    return reply


def _check_finite(after: ArrayRecord) -> None:
    """Raises `OperatorError` for a value that is none: of such an update Flower knows no norm, and clips nothing."""
    if broken := not_finite(to_state(after)):
        raise OperatorError(
            f"tensor {broken!r} of the trained network holds NaN or infinity: the update cannot be clipped, and is not "
            "sent. Lower the learning rate"
        )


def moved_apart(before: ArrayRecord, after: ArrayRecord, norm: float) -> ArrayRecord:
    """``after``; where nothing moved, with one entry ten-millionths of ``norm`` off: Flower divides by the norm."""
    state, old = to_state(after), to_state(before)
    if get_norm([(state[name] - old[name]).numpy() for name in old]) != 0:
        return after
    name = next(iter(state))
    entries = state[name].flatten().clone()
    nearest = entries.abs().argmin()
    # Enough that the entry, as it is stored, becomes another.
    entries[nearest] += 4 * torch.finfo(entries.dtype).eps * max(norm, float(entries[nearest].abs()))
    return to_arrays({**state, name: entries.reshape(state[name].shape)})


def _mod(settings: Settings) -> Mod:
    if settings.privacy == "clipping":
        return fixedclipping_mod
    norm = settings.clipping_norm
    # Two updates that are clipped to a norm lie at most twice that apart, whatever data they come from.
    return LocalDpMod(norm, 2 * norm, settings.dp_epsilon, settings.dp_delta)
