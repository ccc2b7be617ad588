"""What is wrong with a command line."""

from strategies.errors import OperatorError


class OptionError(OperatorError):
    """Options that contradict each other, the files or the network."""

    exit_code = 19
