"""Whose fault it is, in two roots.

OperatorError     the set-up is wrong: what, where, expected and got, and what to do next; ends the command
└── SettingsError a setting is unknown, of the wrong type or out of range
RefusedReply      one site's fault: logged and counted; never ends a round
"""

from enum import Enum


class OperatorError(Exception):
    """The set-up is wrong. The text tells the operator what to do next; ``exit_code`` ends the process."""

    exit_code = 10


class SettingsError(OperatorError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 11


class Reason(Enum):
    """Why a reply was refused."""

    CLIENT_ERROR = "the site answered with an error"
    LATE = "no answer by the deadline"
    DUPLICATE = "the site has answered already"
    MALFORMED = "the reply lacks a record that the protocol asks for"
    KEYS = "the tensors are not those of the reference"
    DTYPE = "a tensor has another dtype than the reference's"
    SHAPE = "a tensor has another shape than the reference's"
    NOT_FINITE = "a tensor holds NaN or infinity"
    WEIGHT = "the number of examples is not a positive finite number"
    COUNTS = "the class counts are no counts of the site's samples"
    PERMUTATION = "the proposed permutation is none of the network's"


class RefusedReply(Exception):  # noqa: N818 - the name is the architecture's: a verdict, not a failure
    """The verdict on one reply that is left out of the round."""

    def __init__(self, reason: Reason, site: str, detail: str) -> None:
        super().__init__(f"site {site!r}: {reason.value}: {detail}")
        self.reason = reason
        self.site = site
        self.detail = detail
