"""What is wrong with a run's folder."""

from strategies.errors import OperatorError


class StoreError(OperatorError):
    """The run store cannot be read or written."""

    exit_code = 13
