"""What is wrong with a command line."""

from strategies.errors import OperatorError


class OptionError(OperatorError):
    """Options contradict each other, the files or the network."""

    exit_code = 19
