"""What is around every answer of a site: nothing that goes wrong here is told to the server in words."""

from collections.abc import Callable
from logging import getLogger

from flwr.app import Context, Error, Message

from strategies.errors import OperatorError
from strategies.logs import show_log

logger = getLogger("fedrebasin")
Handler = Callable[[Message, Context], Message]
client_raised = 2  # Flower's code for an exception in a ClientApp


def scrubbed(answer: Handler) -> Handler:
    """``answer``, whose errors are logged here, at the site; the server learns their kind only.

    An exception's text may quote a sample or a path.
    """

    def handler(message: Message, context: Context) -> Message:
        show_log()
        try:
            return answer(message, context)
        except OperatorError as error:
            logger.error("%s", error)
            return Message(Error(client_raised, f"{type(error).__name__}: see the site's own log"), reply_to=message)
        except Exception as error:
            logger.exception("answering %s failed", message.metadata.message_type)
            return Message(Error(client_raised, f"{type(error).__name__}: see the site's own log"), reply_to=message)

    return handler
