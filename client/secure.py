"""Flower's SecAgg+ at a site: what it sends is masked, and only the sum over all sites can be read.

Flower has SecAgg+ for its older interface alone (`secaggplus_mod`): it masks what is called a fit result there. This
adapter answers with the parameters of the site's network as such a result, and lets Flower's mod do the rest.
"""

from logging import getLogger
from typing import cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

from client.aligning import network_spec
from client.handlers import Handler, scrubbed
from models import Architecture
from strategies.errors import OperatorError
from strategies.masked import pack_masked
from strategies.privacy import covered_shape, learned
from strategies.protocol import ARRAYS, N_EXAMPLES, metrics_of
from strategies.settings import Settings, parse_settings

logger = getLogger("fedrebasin")


def secure(message: Message, context: Context, call_next: Handler) -> Message:
    """The answer to ``message``; where the run asks for secure aggregation, masked, and nothing but masked."""

    def masked(asked: Message, inner: Context) -> Message:
        settings = parse_settings(inner.run_config)
        if settings.privacy != "secure-aggregation":
            return call_next(asked, inner)
        _check_asked(asked, settings)

        def trained(question: Message, known: Context) -> Message:
            reply = call_next(question, known)
            if reply.has_error():
                raise OperatorError(f"no network to mask: {reply.error.reason}")
            return _as_fit_result(question, reply, settings)

        return pack_masked(secaggplus_mod(asked, inner, trained))

    return scrubbed(masked)(message, context)


def _check_asked(asked: Message, settings: Settings) -> None:
    """Raises `OperatorError` for a message outside the protocol, and for what would open less than the sum.

    That a stage is asked for once, and in its turn, Flower looks at.
    """
    if RECORD_KEY_CONFIGS not in asked.content.config_records:
        raise OperatorError("asked for a network that is not masked in a run with secure aggregation: not answered")
    config = asked.content.config_records[RECORD_KEY_CONFIGS]
    match config.get(Key.STAGE):
        case Stage.SETUP:
            _check_threshold(config, settings)
        case Stage.COLLECT_MASKED_VECTORS:
            _check_once(config, Key.SOURCE_LIST)
        case Stage.UNMASK:
            _check_once(config, Key.ACTIVE_NODE_ID_LIST, Key.DEAD_NODE_ID_LIST)
            _check_alive(config, asked.metadata.dst_node_id)
        case _:
            pass


def _check_threshold(config: ConfigRecord, settings: Settings) -> None:
    """Raises `OperatorError` for a sum that too few of the sites which get a share could open.

    With a threshold of half the sites or less, a server that tells one half that a site is lost and the other that it
    is not gets the shares of both its secrets, and reads its network.
    """
    told = Key.SAMPLE_NUMBER, Key.SHARE_NUMBER, Key.THRESHOLD
    n_sites, n_shares, threshold = (cast(int, config.get(key, 0)) for key in told)
    if threshold < settings.min_sites or 2 * threshold <= max(n_sites, n_shares):
        raise OperatorError(
            f"asked to let {threshold} of {max(n_sites, n_shares)} sites open the sum: expected min-sites "
            f"({settings.min_sites}) or more, and more than half; not answered"
        )


def _check_once(config: ConfigRecord, *keys: str) -> None:
    """Raises `OperatorError` where these lists together name a node twice.

    Both alive and lost, the server would get the shares of both its secrets, whatever the threshold; and twice in one
    list it would count as two of those that the threshold asks for.
    """
    named = [node for key in keys for node in cast(list[int], config.get(key, []))]
    if len(set(named)) < len(named):
        raise OperatorError(f"asked about a node twice ({' and '.join(keys)}): not answered")


def _check_alive(config: ConfigRecord, node: int) -> None:
    """Raises `OperatorError` where a site is told that it is lost itself, which it knows better."""
    if node not in cast(list[int], config.get(Key.ACTIVE_NODE_ID_LIST, [])):
        raise OperatorError("asked to open a sum without this site's network, which it sent: not answered")


def _as_fit_result(asked: Message, reply: Message, settings: Settings) -> Message:
    """A training reply in the form of Flower's older interface: parameters, in the order of those sent, and weight.

    Raises `OperatorError` for what is no number, which a mask would hide from the server.
    """
    arrays = reply.content.array_records[ARRAYS]
    names = learned(network_spec(Architecture(*settings.network)), asked.content.array_records[ARRAYS])
    values = [arrays[name].numpy().astype(np.float64) for name in names]
    if not all(np.isfinite(each).all() for each in values):
        raise OperatorError("the trained network holds NaN or infinity: it would spoil the mean, and is not sent")
    bound = settings.secure_range
    if cut := sum(int(np.count_nonzero(np.abs(each) > bound)) for each in values):
        logger.warning("%d parameters lie beyond secure-range (%g) and are cut to it", cut, bound)
    # Flower cuts what it has weighted; cut before, the mean lies in this range, and the server can hold it to that.
    cut_values = [np.clip(each, -bound, bound).reshape(covered_shape(each.shape)) for each in values]
    parameters = ndarrays_to_parameters(cut_values)
    examples = int(str(metrics_of("", reply)[N_EXAMPLES]))
    result = FitRes(Status(Code.OK, ""), parameters, examples, {})
    return Message(fitres_to_recorddict(result, keep_input=False), reply_to=reply)
