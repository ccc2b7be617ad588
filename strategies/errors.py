"""Whose fault it is, in two roots.

OperatorError     the set-up is wrong: what, where, expected and got, and what to do next; ends the command
└── SettingsError a setting is unknown, of the wrong type or out of range
RefusedReply      one site's fault: logged and counted; never ends a round
└── OverflowReply so is this, unless other sites say the same of what they were asked about
"""

from enum import Enum


class OperatorError(Exception):
    """The set-up is wrong, in a way that has no code of its own.

    The text tells the operator what to do next; ``exit_code`` ends the process, and has a page under
    ``docs/exit-codes/``.
    """

    exit_code = 10


class SettingsError(OperatorError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 11


class Reason(Enum):
    """Why a reply was refused: in words, and what the operator can do."""

    CLIENT_ERROR = (
        "the site answered with an error",
        "The site's own log has the cause; the server is told only its kind.",
    )
    GONE = ("the site left while it was asked", "Its SuperNode or its training process died: look at the site's log.")
    LATE = (
        "no answer by the deadline",
        "Raise round-deadline-seconds, or find out why the site is slow. Its next answer counts again.",
    )
    DUPLICATE = (
        "the site has answered already",
        "Two nodes have one name, or a message was sent twice: see the node list.",
    )
    UNASKED = (
        "the site was not asked, or not in this round",
        "Find out which node it is, and revoke it if it goes on.",
    )
    MALFORMED = ("the reply is not what the protocol asks for", "Compare the versions of site and server.")
    KEYS = ("the tensors are not those of the reference", "Compare model, width, depth and norm of site and server.")
    DTYPE = ("a tensor has another dtype than the reference's", "The site must send the dtypes that it was sent.")
    SHAPE = ("a tensor has another shape than the reference's", "Compare model, width and depth of site and server.")
    ENCODING = ("an array's bytes are not what they claim to be", "A broken or hostile client: ask the site.")
    NOT_FINITE = (
        "a tensor holds NaN or infinity",
        "The site's training diverged: see that its features are standardised, or lower its learning rate.",
    )
    NORM = (
        "the update is far larger than it may be",
        "Diverged or hostile. If neither, raise max-update-ratio or max-update-norm, or set admission to lenient.",
    )
    WEIGHT = ("the number of examples cannot be", "A broken or hostile client: ask the site how many samples it has.")
    COUNTS = ("the class counts are no counts of the site's samples", "A broken or hostile client: ask the site.")
    MOMENTS = ("sums or statistics that could not come from samples", "A broken or hostile client: ask the site.")
    PERMUTATION = ("the proposed permutation is none of the network's", "Compare the versions of site and server.")

    def __init__(self, words: str, advice: str) -> None:
        self.words = words
        self.advice = advice


class RefusedReply(Exception):  # noqa: N818 - the name is the architecture's: a verdict, not a failure
    """The verdict on one reply that is left out of the round. ``tensor`` names the one that is to blame, if one is."""

    def __init__(self, reason: Reason, site: str, detail: str, tensor: str = "") -> None:
        about = f"tensor {tensor!r}: " if tensor else ""
        # What a site said may stand in it, and must forge no line of a log.
        detail = "".join(letter if letter.isprintable() else " " for letter in detail)
        super().__init__(f"site {site!r}: {reason.words}: {about}{detail}")
        self.reason = reason
        self.site = site
        self.detail = about + detail
        self.tensor = tensor


class OverflowReply(RefusedReply):
    """A reply with values that are not finite, or too large to be a network's.

    A site can make them up, or it was asked about a network that overflows: then every honest site says so.
    """
