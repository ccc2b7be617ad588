"""FedAvg that brings every reply into the basin of one reference network before it averages."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from logging import getLogger
from typing import TypedDict, Unpack

from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from torch import Tensor

from alignment.matching import Matching
from alignment.permutation import Permutation, invert
from alignment.spec import PermutationSpec, State
from strategies.admission import Admitted, admit, variances
from strategies.asked import by_name
from strategies.bounds import Bounds
from strategies.errors import Reason, RefusedReply
from strategies.given import check_aligned, check_drawn, check_given, check_remembered, check_sent, check_unclipped
from strategies.logs import show_log
from strategies.matching import AlignAt, Matcher, Ways
from strategies.mean import exact_mean, fedavg_mean
from strategies.metrics import shared_metrics
from strategies.names import told_apart
from strategies.protocol import to_arrays, to_state
from strategies.recalibration import Recalibration
from strategies.references import GLOBAL, LARGEST, MEDOID, largest_first, nearest_first, the_site
from strategies.rounds import Collected, MergedRound
from strategies.rules import Rule, robust
from strategies.spool import PermutedState, Spool, in_memory

logger = getLogger("fedrebasin")


Aggregation = Callable[[list[RecordDict], str], MetricRecord]


class FedAvgArguments(TypedDict, total=False):
    """What `FedAvg` takes, by its names and with its defaults."""

    fraction_train: float
    fraction_evaluate: float
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: Aggregation | None
    evaluate_metrics_aggr_fn: Aggregation | None


class FedRebasin(FedAvg):
    """Align, then average: Git Re-Basin (arXiv 2209.04836, Algorithm 1) on every reply, then the weighted mean.

    In the place of `FedAvg` in any Flower app whose ArrayRecord is a state dict::

        strategy = FedRebasin(spec=derive_spec(model, (example,)))
        result = strategy.start(grid, ArrayRecord(model.state_dict()))

    spec       the network's permutation spec
    reference  what round 1 aligns to: ``"global"``, the network that was sent out (sites start from it); ``"largest"``,
               the reply with most examples (sites start from their own seeds); ``"medoid"``, the one nearest to all
               others; a site's name; or a state dict.
               From round 2 on, sites start from the merged network and it is the reference.
    align_at   ``"server"``: weight matching here; ``"site"``: replies come aligned, and are averaged as they are;
               ``"both"``: replies bring the permutation that their site proposes, which is checked, and kept
    refine     with ``"both"``: weight matching starts from the proposal
    judge      what else a reply must pass: is given the site's name and its metrics, raises `RefusedReply`
    recalibration  asks the nodes for BatchNorm statistics of the merge; None leaves the mean of theirs
    restarts   of the matching, at most; the best objective is kept
    seed       of the order in which groups are visited
    rule       how aligned networks become one, see `strategies.rules`; by default their weighted mean
    malicious  how many poisoned replies the rule withstands
    bounds     how far one reply may carry the merge; by default as far as it likes
    spool      where replies wait; by default in memory. With a folder, memory does not grow with the number of sites
    fedavg     all that `FedAvg` takes, such as ``min_train_nodes`` and ``train_metrics_aggr_fn``, which is given the
               metrics that all admitted replies have in the same form

    Replies are judged one by one: a malformed one is logged and left out. The mean is taken in site-name order, so
    order of arrival never matters. When no reply is moved here, float entries are `FedAvg.aggregate_train`'s, bit for
    bit, of the replies in that order; otherwise the mean is fp64. Integer entries are the reference's.
    """

    def __init__(
        self,
        *,
        spec: PermutationSpec,
        reference: str | State = "global",
        align_at: AlignAt = "server",
        refine: bool = False,
        restarts: int = 1,
        seed: int = 0,
        spool: Spool | None = None,
        bounds: Bounds | None = None,
        rule: Rule = "mean",
        malicious: int = 1,
        judge: Callable[[str, MetricRecord], object] | None = None,
        recalibration: Recalibration | None = None,
        **fedavg: Unpack[FedAvgArguments],
    ) -> None:
        check_given(spec, reference, align_at, rule)
        super().__init__(**fedavg)
        self.spec = spec
        self.reference = reference
        self.align_at: AlignAt = align_at
        self.refine = refine
        self.restarts = restarts
        self.seed = seed
        self.names: dict[int, str] = {}
        self.merged: MergedRound | None = None
        self.spool = spool or Spool()
        self.bounds = bounds or Bounds()
        self.rule: Rule = rule
        self.malicious = malicious
        self.judge = judge or _no_more
        self.recalibration = recalibration
        # Sites that were the reference until the others' replies spoke against them: the last to be it again.
        self.unfit: set[str] = set()
        self._matcher = self._matching({}, apart=True)
        self._collected = Collected()
        self._grid: Grid | None = None
        self._asked: list[Metadata] = []

    def summary(self) -> None:
        """Logs what the merge will do, after FedAvg's own lines.

        Flower shows what FedAvg says. So that this strategy does not say less, its log is shown too, as by `show_log`,
        unless somebody has decided what becomes of it.
        """
        if logger.level == logging.NOTSET and not logger.hasHandlers():
            show_log()
        super().summary()
        shown = self.reference if isinstance(self.reference, str) else "a given network"
        groups = len(self.spec.groups)
        logger.info("align at %s: %d groups, reference %s, %d restarts", self.align_at, groups, shown, self.restarts)
        kept = variances(self.spec.buffers)
        if kept and self.recalibration and not self.recalibration.shapes:
            logger.warning("%s and its like are no BatchNorm's: their mean over the nodes stays", kept[0])
        if kept and self.recalibration is None:
            logger.warning(
                "BatchNorm statistics of the merge are the mean of the nodes': after independent starts that is near "
                "chance. Give recalibration=Recalibration(model, example), and answer query.recalibrate at the nodes"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages; remembers what was sent, how the nodes are called that get them, and the grid.

        Raises `OperatorError` inside Flower's differential privacy, unless nodes align themselves; and in round 1,
        before anybody trains for nothing, where the network is not the spec's, or nobody has the reference.
        """
        if KEY_CLIPPING_NORM in config:
            check_unclipped(self.align_at)
        self._grid = grid
        # FedAvg waits here until there are nodes enough: who is asked is known behind it alone.
        messages = list(super().configure_train(server_round, arrays, config, grid))
        called = told_apart({node.node_id: node.name for node in grid.get_nodes()})
        asked = sorted(message.metadata.dst_node_id for message in messages)
        self.remember(arrays, {node_id: called.get(node_id, "") for node_id in asked}, apart=server_round == 1)
        self._asked = [message.metadata for message in messages]
        if server_round == 1 and messages:
            check_sent(self.spec, self._matcher.sent)
            check_aligned(self.align_at, self.reference)
            connected = {name or str(node_id) for node_id, name in called.items()}
            check_drawn(self.reference, self.names.values(), connected)
        return messages

    def remember(self, arrays: ArrayRecord, names: Mapping[int, str], apart: bool = True) -> None:
        """Takes the network that goes out this round, and the names of nodes; a nameless node is called by its id.

        Sites that start ``apart`` are aligned to the strategy's ``reference``, others to the network that went out.
        """
        self._matcher = self._matching(to_state(arrays), apart)
        self._asked = []
        # Until replies come there are no verdicts, those of the round before least of all.
        self._collected = Collected()
        self.names = {node_id: name or str(node_id) for node_id, name in names.items()}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The aligned mean of the admitted replies, and their metrics as FedAvg averages them; Nones without any.

        Raises `OperatorError` where nothing tells which network was sent.
        """
        check_remembered(self._matcher.sent)
        self.collect(server_round, by_name(replies, self.names, self._asked))
        arrays, metrics = self.merge_collected()
        if self.recalibration and self._grid is None:
            logger.warning(
                "BatchNorm statistics stay as they were: configure_train was not called, which tells the grid"
            )
        elif arrays is not None and self.merged and self.recalibration and self._grid:
            nodes = {node_id: name for node_id, name in self.names.items() if name in self.merged.replies}
            arrays = to_arrays(self.recalibration.renewed(to_state(arrays), self._grid, nodes, server_round))
        return arrays, metrics

    def collect(
        self, server_round: int, replies: Iterable[tuple[str, Message | None]], reference: str | None = None
    ) -> None:
        """Judges and spools each reply as it comes; None is a silent site.

        ``reference`` names the site, among those that reply, to which the others have aligned themselves.
        """
        self.spool.clear()
        self._collected = Collected(reference)
        self._matcher.server_round = server_round
        for site, reply in replies:
            try:
                self._take(site, reply)
            except RefusedReply as verdict:
                self.refuse(verdict)
        self._compare()
        n_admitted = len(self._collected.admitted)
        logger.log(
            logging.INFO if n_admitted else logging.WARNING,
            "admitted %d replies, refused %d%s",
            n_admitted,
            len(self._collected.refused),
            "" if n_admitted else ": nothing is merged",
        )

    def _compare(self) -> None:
        """Refuses the replies whose updates are too far from the others'."""
        admitted = self._collected.admitted
        for site, words in sorted(self.bounds.too_far({site: one.norm for site, one in admitted.items()}).items()):
            if self.bounds.strict:
                del admitted[site]
                self.refuse(RefusedReply(Reason.NORM, site, words))
                if site == self._collected.reference:
                    self.unfit.add(site)
            else:
                logger.warning("site %r: the update is large: %s", site, words)

    def refuse(self, verdict: RefusedReply) -> None:
        """Counts a verdict among those of this round."""
        logger.warning("refused: %s", verdict)
        self._collected.refused.append(verdict)

    @property
    def verdicts(self) -> Sequence[RefusedReply]:
        """Those of this round so far."""
        return self._collected.refused

    def nearest_first(self) -> list[str]:
        """The sites whose networks were collected, the medoid first; none has more say in it than in the mean."""
        return nearest_first(self.spec, self._weighed(), self.match_by_weights)

    def vet(self, site: str, reply: Message | None) -> State:
        """The network of a site that is to be the reference, before others align to it; raises `RefusedReply`.

        All is judged that can be without the others' replies.
        """
        one = self._judged(site, reply)
        if self.bounds.strict and (words := self.bounds.too_far({site: one.norm})):
            raise RefusedReply(Reason.NORM, site, words[site])
        return one.state

    def merge_collected(self) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The aligned mean of what was collected, and its metrics as FedAvg averages them; Nones without any."""
        self.merged = self.align_collected()
        if not self.merged.replies:
            return None, None
        self._tell_moved(self.merged)
        metrics = shared_metrics([one.told for one in self.merged.replies.values()])
        return to_arrays(self.mean(self.merged)), self.train_metrics_aggr_fn(metrics, self.weighted_by_key)

    def _weighed(self) -> dict[str, Admitted]:
        """What was collected, by the names of sites, with the weights that sites have in the mean."""
        admitted = self._collected.admitted
        weights = self.bounds.capped({site: one.weight for site, one in admitted.items()})
        return {site: replace(one, weight=weights[site]) for site, one in sorted(admitted.items())}

    def _tell_lowered(self, weighed: Mapping[str, Admitted]) -> None:
        """Says who weighs less than it holds: a mean that is not FedAvg's for it is no surprise."""
        told = {site: self._collected.admitted[site].weight for site in weighed}
        if lowered := [site for site, one in weighed.items() if one.weight < told[site]]:
            logger.warning(
                "max-weight-share = %g: %s in the mean",
                self.bounds.max_share,
                ", ".join(f"{site} weighs {weighed[site].weight:g} of {told[site]:g}" for site in lowered),
            )

    def _tell_moved(self, merged: MergedRound) -> None:
        """Says whether alignment did anything: after a shared start and few steps there is nothing to move."""
        if self.align_at == "site" and not merged.matchings:
            logger.info("the reference is %s; %d networks came aligned", merged.reference, len(merged.replies))
            return
        units = max(1, sum(self.spec.groups.values()))
        shares = [sum(m.moved[g] * self.spec.groups[g] for g in m.moved) / units for m in merged.matchings.values()]
        moved = [share for share in shares if share]
        least, most = (f"{share:.0%}" for share in (min(moved, default=0), max(moved, default=0)))
        how_much = f", {least if least == most else f'{least} to {most}'} of their units" if moved else ""
        how_many = f"{len(moved)} of {len(shares)} other networks"
        logger.info("the reference is %s; %s moved%s", merged.reference, how_many, how_much)
        far = sum(share > 0.5 for share in shares)
        if self.align_at == "server" and merged.reference == GLOBAL and 2 * far > len(shares):
            logger.warning(
                "most networks lie far from the one that was sent, as if nodes had not started from it: %s",
                "where they start apart, set reference to 'largest' in round 1, unless the one that was sent is trained"
                if self._matcher.apart
                else "from round 2 on they train from the merge, which is what they are sent",
            )

    def align_collected(self) -> MergedRound:
        """Every network that was collected, in the reference's order of units and as its site trained it."""
        admitted = self._weighed()
        self._tell_lowered(admitted)
        refused = sorted(self._collected.refused, key=lambda verdict: verdict.site)
        if not admitted or self._lacks_reference(admitted):
            return MergedRound(self._collected.reference or "", {}, {}, {}, {}, {}, refused)
        name, reference = self._reference(admitted)
        came = {site: one.state for site, one in admitted.items()}
        if self.align_at == "site":
            reported = {s: one.reported for s, one in admitted.items() if one.reported is not None and s != name}
            raw = {s: self._moved_back(one) for s, one in admitted.items() if one.permutation is not None or s == name}
            seconds = {site: one.seconds for site, one in reported.items()}
            return MergedRound(name, reference, admitted, reported, came, raw, refused, seconds)
        done = self._collected.matched
        held = in_memory(reference) if self.spec.groups else reference
        timed = {s: done.get(s) or self._matcher.match(held, one) for s, one in admitted.items() if s != name}
        matchings = {site: matching for site, (matching, _) in timed.items()}
        moved = {
            site: PermutedState(self.spec, matching.permutation, came[site])
            for site, matching in matchings.items()
            if any(matching.moved.values())
        }
        aligned, seconds = {**came, **moved}, {site: seconds for site, (_, seconds) in timed.items()}
        return MergedRound(name, reference, admitted, matchings, aligned, came, refused, seconds)

    def mean(self, merged: MergedRound) -> dict[str, Tensor]:
        """The weighted mean of the aligned networks; FedAvg's, bit for bit, when nothing was moved here.

        With another ``rule``, what that makes of them.
        """
        if self.rule != "mean":
            # Laid out once as aligned: the rules read every network block by block.
            laid_out = [self.spool.add(f"{site}, aligned", state) for site, state in merged.aligned.items()]
            return robust(self.rule, laid_out, merged.network, self.malicious, buffers=self.spec.buffers)
        how = exact_mean if self.align_at != "site" and merged.moved else fedavg_mean
        return how(list(merged.aligned.values()), list(merged.weights.values()), merged.network)

    def _moved_back(self, one: Admitted) -> State:
        """The network as its site trained it, of one that came aligned."""
        if one.permutation is None:
            return one.state
        return PermutedState(self.spec, invert(self.spec, one.permutation), one.state)

    def _take(self, site: str, reply: Message | None) -> None:
        if self.names and site not in self.names.values():
            raise RefusedReply(Reason.UNASKED, site, "nobody of this name was asked")
        if site in self._collected.admitted:
            raise RefusedReply(Reason.DUPLICATE, site, "the first answer counts")
        one = self._judged(site, reply)
        known = self._known_reference()
        # Replies expire at the deadline wherever they lie, and matching must not use up the time that sites have: only
        # what a look tells is told while the reply is in memory, all else waits until all are there.
        at_sight = known is self._matcher.sent and self.align_at != "site"
        if at_sight and (timed := self._matcher.look(one)) is not None:
            self._collected.matched[site] = timed
        self._collected.admitted[site] = replace(one, state=self.spool.add(site, one.state))

    def _judged(self, site: str, reply: Message | None) -> Admitted:
        """The reply, where nothing speaks against it by itself; raises `RefusedReply`."""
        one = admit(site, reply, self._matcher.sent, self.spec, self.weighted_by_key)
        self.judge(site, one.metrics)
        return one

    def match_by_weights(self, reference: State, one: Admitted, start: Permutation | None = None) -> Matching:
        """The matching of one reply by its weights, from the identity or from ``start``, whatever else came."""
        return self._matcher.by_weights(reference, one.site, one.state, start)

    def _matching(self, sent: State, apart: bool) -> Matcher:
        return Matcher(self.spec, Ways(self.align_at, self.refine, self.restarts, self.seed), sent, apart)

    def _known_reference(self) -> State | None:
        """The reference, where it does not depend on which replies come."""
        if self._collected.reference is not None:
            return None
        if not self._matcher.apart or self.reference == GLOBAL:
            return self._matcher.sent
        return None if isinstance(self.reference, str) else self.reference

    def _reference(self, admitted: Mapping[str, Admitted]) -> tuple[str, State]:
        """The reference's name and network."""
        known = self._known_reference()
        if known is not None:
            self.spec.check_state(known, "reference")
            return GLOBAL if known is self._matcher.sent else "given", known
        assert isinstance(self.reference, str)
        wanted = self._collected.reference or self.reference
        if wanted == LARGEST:
            # By what they hold: bounded, the largest may be level.
            wanted = largest_first({site: self._collected.admitted[site].weight for site in admitted})[0]
        elif wanted == MEDOID:
            wanted = self.nearest_first()[0]
        return wanted, admitted[the_site(wanted, admitted)].state

    def _lacks_reference(self, admitted: Mapping[str, Admitted]) -> bool:
        """Whether the site that was to be the reference is there, and sent no good reply."""
        asked = self.reference if isinstance(self.reference, str) and self._known_reference() is None else ""
        wanted = self._collected.reference or asked
        lacks = wanted in self.names.values() and wanted not in admitted
        if lacks:
            logger.warning("site %r is the reference and sent no good reply: nothing can be merged", wanted)
        return lacks


def _no_more(site: str, metrics: MetricRecord) -> None:
    """Nothing else is asked of a reply."""
