"""What can be wrong with a federation's or a site's folder."""

from strategies.errors import OperatorError


class EnrolmentError(OperatorError):
    """A request, a certificate or the list of sites is not what it should be."""

    exit_code = 30


class KitError(OperatorError):
    """A folder is no kit or no site, or a kit is not the one that was approved."""

    exit_code = 31
