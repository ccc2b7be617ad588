"""Flower's SecAgg+ at a site: what it sends is masked, and only the sum over all sites can be read.

Flower has SecAgg+ for its older interface alone (`secaggplus_mod`): it masks what is called a fit result there. This
adapter answers with the site's network as such a result, floating tensors only, and lets Flower's mod do the rest.
"""

from flwr.app import Context, Message
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

from client.handlers import Handler, scrubbed
from strategies.errors import OperatorError
from strategies.protocol import ARRAYS, N_EXAMPLES, metrics_of
from strategies.settings import parse_settings


def secure(message: Message, context: Context, call_next: Handler) -> Message:
    """The answer to ``message``; where the run asks for secure aggregation, masked, and nothing but masked."""

    def trained(asked: Message, inner: Context) -> Message:
        reply = call_next(asked, inner)
        if reply.has_error():
            raise OperatorError(f"no network to mask: {reply.error.reason}")
        return _as_fit_result(reply)

    def masked(asked: Message, inner: Context) -> Message:
        if parse_settings(inner.run_config).privacy != "secure-aggregation":
            return call_next(asked, inner)
        if RECORD_KEY_CONFIGS not in asked.content.config_records:
            raise OperatorError("asked for a network that is not masked in a run with secure aggregation: not answered")
        return secaggplus_mod(asked, inner, trained)

    return scrubbed(masked)(message, context)


def _as_fit_result(reply: Message) -> Message:
    """A training reply in the form of Flower's older interface: floating tensors in their order, and their weight."""
    arrays = [
        array.numpy() for array in reply.content.array_records[ARRAYS].values() if array.dtype.startswith("float")
    ]
    examples = int(str(metrics_of("", reply)[N_EXAMPLES]))
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), examples, {})
    return Message(fitres_to_recorddict(result, keep_input=False), reply_to=reply)
