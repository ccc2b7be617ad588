"""Flower's SecAgg+ at a site: what it sends is masked, and only the sum over all sites can be read.

Flower has SecAgg+ for its older interface alone (`secaggplus_mod`): it masks what is called a fit result there. This
adapter answers with the site's network as such a result, floating tensors only, and lets Flower's mod do the rest.
"""

from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

from strategies.errors import SettingsError
from strategies.protocol import ARRAYS, N_EXAMPLES, metrics_of
from strategies.settings import parse_settings

Handler = Callable[[Message, Context], Message]
client_raised = 2  # Flower's code for an exception in a ClientApp


def secure(message: Message, context: Context, call_next: Handler) -> Message:
    """The answer to ``message``; where the run asks for secure aggregation, masked, and nothing but masked."""
    try:
        wanted = parse_settings(context.run_config).privacy == "secure-aggregation"
    except SettingsError:
        # The handler says so itself, without a word of it leaving the site.
        return call_next(message, context)
    if not wanted:
        return call_next(message, context)
    if RECORD_KEY_CONFIGS not in message.content.config_records:
        return Message(Error(client_raised, "asked for a network that is not masked"), reply_to=message)

    def trained(asked: Message, inner: Context) -> Message:
        return _as_fit_result(call_next(asked, inner))

    try:
        return secaggplus_mod(message, context, trained)
    except Exception as error:
        # The text of an exception may quote what must stay here.
        return Message(Error(client_raised, f"{type(error).__name__} in secure aggregation"), reply_to=message)


def _as_fit_result(reply: Message) -> Message:
    """A training reply in the form of Flower's older interface: floating tensors in their order, and their weight."""
    arrays = [
        array.numpy() for array in reply.content.array_records[ARRAYS].values() if array.dtype.startswith("float")
    ]
    examples = int(str(metrics_of("", reply)[N_EXAMPLES]))
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), examples, {})
    return Message(fitres_to_recorddict(result, keep_input=False), reply_to=reply)
