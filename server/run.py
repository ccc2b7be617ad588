"""A run: join, then round after round train, merge, recalibrate, evaluate, probe; each finished round is kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger

from torch import nn

from server.baselines import measure_alone, measure_baselines
from server.evaluation import evaluate
from server.guard import guard, guard_mean
from server.merge import merge, renewed
from server.mixing import Search
from server.outcome import is_broken, is_lost, merged_score, own_scores
from server.probing import greatest, probe_all
from server.records import MatchingRecord, RefusedRecord, RoundRecord, Score, TrafficRecord
from server.resume import Beginning
from server.secure import secure_mean
from server.sites import Sites
from server.stopwatch import Stopwatch
from server.store import RunStore
from server.summary import best_round
from server.trips import Trips
from server.variance import variance_ratios
from server.variants import measure_variants
from strategies.errors import OperatorError
from strategies.fed_rebasin import FedRebasin
from strategies.files import sha256_of
from strategies.protocol import MERGED, State
from strategies.references import the_site
from strategies.rounds import MergedRound
from strategies.settings import Settings
from strategies.spool import SpooledState

logger = getLogger("fedrebasin")
NOTHING = MergedRound("", {}, {}, {}, {}, {})


class VoidError(OperatorError):
    """Too many rounds in a row were void."""

    exit_code = 22


@dataclass(frozen=True)
class Run:
    """What the rounds of one run share. ``remarks``, on what may come of the settings, are noted in its first round."""

    settings: Settings
    store: RunStore
    sites: Sites
    strategy: FedRebasin
    model: nn.Module
    remarks: Sequence[str] = ()

    def play(self, beginning: Beginning) -> State:
        """Plays the rounds that are left, and returns the last merged network.

        Raises `VoidError` when more than ``max-void-rounds`` in a row were void, or all.
        """
        state: State = beginning.state or {n: tensor.clone() for n, tensor in self.model.state_dict().items()}
        first, void, n_lost = not beginning.merged, beginning.void_in_a_row, beginning.n_lost
        usual = self.strategy.bounds
        self.strategy.unfit |= beginning.unfit
        self.sites.missing |= beginning.sites
        rounds = list(beginning.rounds)
        for number in range(len(beginning.rounds) + 1, self.settings.rounds + 1):
            # Under secure aggregation nobody sees a norm.
            self.strategy.bounds = usual.tightened(n_lost if self.settings.privacy != "secure-aggregation" else 0)
            state, record = self.play_round(number, state, first)
            rounds.append(record)
            best = best_round(self.store, rounds)
            self.store.forget_before(number - self.settings.keep_checkpoints + 1, but=best.round if best else 0)
            merged = record.outcome == "merged"
            first, void, n_lost = first and not merged, 0 if merged else void + 1, n_lost + record.is_lost
            if void > self.settings.max_void_rounds and number < self.settings.rounds:
                raise self._void(void, number, "Started again under the same name, the run goes on.")
        n_played, more = max(len(beginning.rounds), self.settings.rounds), "Raise rounds to go on under the same name."
        if void > self.settings.max_void_rounds:
            raise self._void(void, n_played, more)
        if first:
            raise VoidError(
                f"none of {n_played} rounds merged. {self.store.rounds_path} says why, under notes and refused. {more}"
            )
        return state

    def _void(self, void: int, number: int, advice: str) -> VoidError:
        return VoidError(
            f"{void} rounds in a row were void, the last of them round {number}; max-void-rounds is "
            f"{self.settings.max_void_rounds}. {self.store.rounds_path} says why, under notes and refused. {advice}"
        )

    def play_round(self, number: int, state: State, first: bool) -> tuple[State, RoundRecord]:
        """One round from ``state``, the ``first`` until one has merged; returns the network, and the round's record."""
        watch = Stopwatch(self.store, number)
        self.store.tell({"rounds": self.settings.rounds, "refused": {}, "asked": [], "replied": []})
        self.sites.begin_round(number)
        for remark in self.remarks if number == 1 else ():
            self.sites.note(remark)
        ratio = self.strategy.bounds.max_ratio
        if ratio < self.settings.max_update_ratio:
            self.sites.note(f"updates are held against {ratio:g} medians, since a merge before was none")
        with watch.phase("join"):
            there = self._join(number, first)
        if not there:
            record = self._void_record(NOTHING, watch)
        elif self.settings.privacy == "secure-aggregation":
            state, record = self._securely(state, first, watch)
        else:
            state, record = self._openly(state, first, watch)
        self.store.status(number, "keep")
        record = record.model_copy(update=self._told())
        self.store.finish_round(record.model_dump(), state)
        # The replies have done their part; what is kept of a round is its network and its line.
        self.strategy.spool.clear()
        return state, record

    def _join(self, number: int, first: bool) -> bool:
        """Whether enough sites are there, and until one has merged the reference that the settings name.

        Raises `JoinError`, or `OperatorError` for the reference, in round 1: what never was is no lost site.
        """
        wanted = self.settings.reference if first and self.settings.reference_is_site else ""
        try:
            self.sites.join(wanted)
            if wanted:
                # Before anybody trains for nothing.
                the_site(wanted, self.sites.names.values())
        except OperatorError as error:
            if number == 1:
                raise
            logger.warning("round %d is void: %s", number, error)
            return False
        return True

    def _told(self) -> dict[str, object]:
        """What the sites did in this round, for its record."""
        traffic = {
            site: TrafficRecord(sent=each.sent, received=each.received, kinds=dict(sorted(each.kinds.items())))
            for site, each in self.sites.traffic.items()
        }
        verdicts = sorted(self.sites.refused, key=lambda verdict: verdict.site)
        return {
            "traffic": dict(sorted(traffic.items())),
            "refused": [RefusedRecord(site=v.site, reason=v.reason.name, detail=v.detail) for v in verdicts],
            "missing": sorted(self.sites.missing),
            "unfit": sorted(self.strategy.unfit),
        }

    def _openly(self, state: State, first: bool, watch: Stopwatch) -> tuple[State, RoundRecord]:
        """A round in which the server sees each site's network."""
        with watch.phase("train"):
            Trips(self.sites, self.strategy, first).collect(state)
        with watch.phase("merge"):
            merged = self.strategy.align_collected()
        if len(merged.replies) < self.settings.min_sites:
            admitted = f"{len(merged.replies)} replies admitted ({', '.join(merged.replies)})"
            logger.warning(
                "round %d is void: %s, min-sites is %d", watch.round_number, admitted, self.settings.min_sites
            )
            return state, self._void_record(merged, watch)
        self.sites.merging = set(merged.aligned)
        return self._finish(merged, state, first, watch)

    def _securely(self, state: State, first: bool, watch: Stopwatch) -> tuple[State, RoundRecord]:
        """A round in which it sees their mean alone: there is nothing to match, to probe or to guard."""
        given = self.strategy.reference
        name, sent = ("given", given) if first and not isinstance(given, str) else ("global", state)
        nothing = MergedRound(name, sent, {}, {}, {}, {})
        with watch.phase("train"):
            opened = secure_mean(self.sites, self.strategy.spec, sent, first)
        self.sites.leave_out(*opened.refused)
        if opened.mean is None:
            self.sites.note("void: no mean came of secure aggregation; the network before it stays")
            return state, self._void_record(nothing, watch)
        self.sites.merging = set(opened.weights)
        with watch.phase("recalibrate"):
            before, state = state, renewed(self.sites, self.model, opened.mean, watch)
        if is_broken(self.sites, state):
            return before, self._void_record(nothing, watch)
        with watch.phase("evaluate"):
            answers = evaluate(self.sites, {MERGED: state}, own=True)
        if is_lost(self.sites, answers):
            return before, self._void_record(nothing, watch)
        notes = list(self.sites.notes)
        told = {"merged": merged_score(answers), "own": own_scores(answers), "weights": opened.weights, "notes": notes}
        return state, _record("merged", nothing, watch).model_copy(update=told)

    def _void_record(self, collected: MergedRound, watch: Stopwatch) -> RoundRecord:
        return _record("void", collected, watch).model_copy(update={"notes": list(self.sites.notes)})

    def _finish(
        self, collected: MergedRound, before: State, first: bool, watch: Stopwatch
    ) -> tuple[State, RoundRecord]:
        with watch.phase("probe"):
            paths = probe_all(self.sites, self.model, collected) if self.settings.probes else {}
        merged, decisions = guard(collected, paths if self.settings.guards else {})
        if self.settings.guards:
            with watch.phase("guard"):
                guarded = (merged, decisions)
                merged, decisions = guard_mean(self.sites, self.model, self.strategy, collected, guarded)
        if undone := [site for site, each in decisions.items() if each.decision == "undone"]:
            self.sites.note(f"not aligned, since the mean has less loss so: {', '.join(undone)}")
        search = Search(self.sites, self.model)
        state = merge(self.strategy, merged, search, watch, first)
        if is_broken(self.sites, state):
            return before, self._void_record(collected, watch)
        with watch.phase("evaluate"):
            answers = evaluate(self.sites, {MERGED: state}, own=True)
        mixed, score = state, merged_score(answers)
        if search.steps:
            with watch.phase("alone"):
                state, score = search.settle(merged, state, score)
        # Else the search took a site's own network, which these answers are not about.
        if state is mixed and is_lost(self.sites, answers):
            return before, self._void_record(collected, watch)
        # Of the merge alone: what is measured beside it may lack a site that the merge had.
        notes = list(self.sites.notes)
        baselines = self._baselines(collected, search.alone, watch) if first else {}
        record = _record("merged", collected, watch).model_copy(
            update={
                "merged": score,
                "own": own_scores(answers),
                "baselines": baselines,
                "guard": decisions,
                "mix": search.steps,
                "notes": notes,
                "paths": paths,
                "barrier": greatest(paths),
                "variance": variance_ratios(state, merged.aligned, merged.weights),
            }
        )
        return state, record

    def _baselines(self, merged: MergedRound, alone: dict[str, Score], watch: Stopwatch) -> dict[str, Score]:
        """What the merge must beat. ``alone`` is what is known of the sites' networks by now."""
        found: dict[str, Score] = {}
        if self.settings.baselines:
            with watch.phase("baselines"):
                found |= measure_baselines(self.sites, self.model, merged)
        elif alone:
            found |= alone
        elif self.settings.probes:
            # Probes send each site's network to all others anyway.
            with watch.phase("alone"):
                found |= measure_alone(self.sites, merged)
        if self.settings.variants:
            with watch.phase("variants"):
                found |= measure_variants(self.sites, self.model, self.strategy, merged)
        return found


def _record(outcome: str, merged: MergedRound, watch: Stopwatch) -> RoundRecord:
    return RoundRecord(
        round=watch.round_number,
        outcome=outcome,
        reference=merged.reference,
        weights=merged.weights,
        matchings={site: MatchingRecord.of(m, merged.seconds.get(site, 0.0)) for site, m in merged.matchings.items()},
        seconds=watch.seconds,
        recalibration_samples=watch.recalibration_samples,
        head=watch.head,
        inputs_sha256={
            site: sha256_of(one.state.path)
            for site, one in merged.replies.items()
            if isinstance(one.state, SpooledState)
        },
        finished=time.time(),
    )
