"""How a round's networks are fetched: in one trip where the reference is known beforehand, else in two.

Sites that start apart and align themselves need a reference that only training brings forth. So they train and keep
the result (first trip); one of them is chosen and sends its network; the others get it and answer aligned (second
trip). Nobody trains twice, and nobody but the reference's site sends a network that is not aligned.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from logging import getLogger

from flwr.app import ConfigRecord, Message, RecordDict

from server.sites import Sites
from strategies.admission import sound, weight_of
from strategies.errors import Reason, RefusedReply
from strategies.fed_rebasin import FedRebasin
from strategies.protocol import (
    ALIGN,
    ARRAYS,
    CONFIG,
    N_EXAMPLES,
    NETWORK,
    ROUND,
    SEND,
    TO_ALIGN,
    TRAIN,
    State,
    metrics_of,
    to_arrays,
)
from strategies.references import GLOBAL, LARGEST, MEDOID, largest_first, the_site

logger = getLogger("fedrebasin")
Arrived = tuple[str, Message | None]


@dataclass(frozen=True)
class Trips:
    """The way of one round's networks from the sites to the strategy."""

    sites: Sites
    strategy: FedRebasin
    first: bool

    def collect(self, state: State) -> None:
        """Has the sites train from ``state``, or ``first`` from their own starts, and the strategy collect.

        Sites whose replies were refused are out of this round.
        """
        at_server = self.strategy.align_at == "server"
        reference = None if at_server else self._known_reference(state)
        # What goes out: what clips an update, at the site, and what measures one here must be of the same network.
        sent = state if reference is None else reference
        self.strategy.remember(to_arrays(sent), self.sites.names, apart=self.first)
        if at_server or reference is not None:
            self._in_one(sent, align=not at_server)
        else:
            self._in_two(state)
        self.sites.leave_out(*self.strategy.verdicts)

    def _known_reference(self, state: State) -> State | None:
        if not self.first or self.strategy.reference == GLOBAL:
            return state
        return None if isinstance(self.strategy.reference, str) else self.strategy.reference

    def _in_one(self, sent: State, align: bool = False) -> None:
        self.strategy.collect(self.sites.round_number, self._train(sent, {TO_ALIGN: align}))

    def _in_two(self, state: State) -> None:
        ranking, refused = self._first_trip(state)
        arrived, reference = self._fetch(ranking, state, refused)
        if arrived is None:
            self.strategy.collect(self.sites.round_number, ())
        else:
            chosen = arrived[0]
            logger.info("round %d: the reference is %s", self.sites.round_number, chosen)
            content = RecordDict({ARRAYS: to_arrays(reference), CONFIG: ConfigRecord({ROUND: self.sites.round_number})})
            asked = set(ranking) - {chosen}
            answers = self.sites.ask(ALIGN, content, only=asked)
            self.strategy.collect(self.sites.round_number, chain([arrived], answers), reference=chosen)
            self._judge_reference(chosen, len(asked))
        for verdict in refused:
            self.strategy.refuse(verdict)

    def _first_trip(self, state: State) -> tuple[list[str], list[RefusedReply]]:
        """The sites that trained, the one that should be the reference first, and the verdicts on the others."""
        wanted = self.strategy.reference
        assert isinstance(wanted, str)
        if wanted == MEDOID:
            # To tell which is nearest to all, the server must see all: the one case in which they are sent as they are.
            self.strategy.collect(self.sites.round_number, self._train(state, {}))
            return self.strategy.nearest_first(), list(self.strategy.verdicts)
        weights: dict[str, float] = {}
        refused: list[RefusedReply] = []
        for site, reply in self._train(state, {SEND: False}):
            try:
                weights[site] = weight_of(site, metrics_of(site, sound(site, reply)), N_EXAMPLES)
            except RefusedReply as verdict:
                refused.append(verdict)
        if wanted == LARGEST or not weights:
            return largest_first(weights), refused
        if wanted in self.sites.names.values() and wanted not in weights:
            logger.warning("round %d: %s is the reference and has not trained", self.sites.round_number, wanted)
            return [], refused
        return [the_site(wanted, weights), *sorted(weights.keys() - {wanted})], refused

    def _fetch(self, ranking: list[str], state: State, refused: list[RefusedReply]) -> tuple[Arrived | None, State]:
        """The first site of ``ranking`` that sends a good network, with its reply; those that fail leave both lists.

        A site that the settings name has no deputy: without it the round is void.
        """
        deputies = sorted(ranking, key=lambda site: site in self.strategy.unfit)
        for chosen in ranking[:1] if self.sites.settings.reference_is_site else deputies:
            (arrived,) = self.sites.ask(NETWORK, RecordDict(), only=[chosen])
            try:
                return arrived, self.strategy.vet(chosen, arrived[1])
            except RefusedReply as verdict:
                refused.append(verdict)
                ranking.remove(chosen)
        return None, state

    def _judge_reference(self, chosen: str, n_asked: int) -> None:
        """Makes the reference the last to be chosen again, if most that were to align to it answered with an error.

        One site that does so may lie, or be broken itself; of most it is likelier that they were sent what breaks them.
        """
        failed = [verdict for verdict in self.strategy.verdicts if verdict.reason is Reason.CLIENT_ERROR]
        if 2 * len(failed) > n_asked:
            self.strategy.unfit.add(chosen)
            where = f"{len(failed)} of {n_asked} sites answered with an error when they were to align to it"
            self.sites.note(f"{chosen} is the last to be the reference again: {where}")

    def _train(self, sent: State, config: Mapping[str, bool]) -> Iterator[Arrived]:
        told = 0
        for arrived in self.sites.ask(TRAIN, self.sites.to_train(to_arrays(sent), self.first, config)):
            yield arrived
            # By now it has been judged.
            if len(self.strategy.verdicts) > told:
                told = len(self.strategy.verdicts)
                self.sites.tell_refused(self.strategy.verdicts)
