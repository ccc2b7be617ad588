"""The grid that Flower's SecAgg+ workflow is given: it hears of sites whose replies it can read, and of no others."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from logging import getLogger

import numpy as np
from flwr.app import Message
from flwr.common.secure_aggregation.secaggplus_constants import Stage

from server.readable import readable, stage_of
from server.sites import Sites
from strategies.admission import sound
from strategies.errors import RefusedReply
from strategies.masked import Numbers, Shapes, masked_vector, with_vector
from strategies.protocol import TRAIN

logger = getLogger("fedrebasin")


@dataclass
class Wire:
    """What of Flower's Grid the workflow uses. Of a silent site, or one that answers with an error, it hears nothing.

    shapes        those of a masked vector
    most_samples  the greatest weight that was told when sites joined
    refused       the verdicts, in order of arrival
    """

    sites: Sites
    shapes: Shapes
    most_samples: int
    refused: list[RefusedReply] = field(default_factory=list[RefusedReply])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The good replies that came by the deadline."""
        asked = {self.sites.names[message.metadata.dst_node_id]: message for message in messages}
        for message in asked.values():
            message.metadata.ttl = self.sites.settings.round_deadline_seconds
        masked = any(stage_of(message) == Stage.COLLECT_MASKED_VECTORS for message in asked.values())
        good: list[Message] = []
        total: list[Numbers] = [np.zeros(shape, np.uint32) for shape in self.shapes]
        for site, reply in self.sites.deliver(TRAIN, list(asked.values())):
            try:
                answer = readable(site, asked[site], sound(site, reply), self.most_samples)
                if masked:
                    # Added up as they come, modulo 2³², so that memory does not grow with the number of sites.
                    came = masked_vector(site, answer, self.shapes)
                    total = [one + other for one, other in zip(total, came, strict=True)]
                    answer = with_vector(answer, [np.zeros((), np.uint32) for _ in self.shapes])
                good.append(answer)
            except RefusedReply as verdict:
                logger.warning("secure aggregation: %s", verdict)
                self.refused.append(verdict)
        if masked and good:
            # Flower adds up what its messages hold: the last holds the sum, the others zeros.
            good[-1] = with_vector(good[-1], total)
        return good
