"""A run: join, then round after round train, merge, recalibrate, evaluate, probe; each finished round is kept."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import getLogger
from math import isfinite

from torch import nn

from alignment.barrier import DEFINITION, LossSums
from alignment.validate import not_finite
from server.baselines import measure_alone, measure_baselines
from server.evaluation import evaluate, pool
from server.guard import guard, guard_mean
from server.heads import average_by_counts, solve_heads
from server.layers import merge_by_least_squares, merge_in_sequence
from server.logistic import fit_head
from server.mixing import Search
from server.probing import probe
from server.recalibration import keeps_statistics, recalibrate, repair
from server.records import (
    BarrierRecord,
    HeadRecord,
    MatchingRecord,
    PathRecord,
    RefusedRecord,
    RoundRecord,
    Score,
    SitePaths,
    TrafficRecord,
)
from server.resume import Beginning
from server.secure import secure_mean
from server.sites import Sites
from server.store import RunStore
from server.trips import Trips
from server.variance import variance_ratios
from server.variants import measure_variants
from strategies.errors import OperatorError
from strategies.fed_rebasin import FedRebasin
from strategies.files import sha256_of
from strategies.protocol import MERGED, OWN, State
from strategies.references import the_site
from strategies.rounds import MergedRound
from strategies.settings import Settings
from strategies.spool import SpooledState

logger = getLogger("fedrebasin")
FLAT_POINTS = 3
# In nats, on average. No training makes a network so wrong, and from there it may not come back: gradients overflow.
MOST_LOSS = 1e6
NOTHING = MergedRound("", {}, {}, {}, {}, {})


class VoidError(OperatorError):
    """Too many rounds in a row were void."""

    exit_code = 22


@dataclass
class Stopwatch:
    """Seconds by phase; tells the store which phase it is."""

    store: RunStore
    round_number: int
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    recalibration_samples: int = 0
    head: HeadRecord | None = None

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Times what happens inside."""
        self.store.status(self.round_number, name)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


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
        for number in range(len(beginning.rounds) + 1, self.settings.rounds + 1):
            # Under secure aggregation nobody sees a norm.
            self.strategy.bounds = usual.tightened(n_lost if self.settings.privacy != "secure-aggregation" else 0)
            state, record = self.play_round(number, state, first)
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
        self.sites.begin_round()
        for remark in self.remarks if number == 1 else ():
            self.sites.note(number, remark)
        ratio = self.strategy.bounds.max_ratio
        if ratio < self.settings.max_update_ratio:
            self.sites.note(number, f"updates are held against {ratio:g} medians, since a merge before was none")
        with watch.phase("join"):
            there = self._join(number, first)
        if not there:
            record = self._void_record(number, NOTHING, watch)
        elif self.settings.privacy == "secure-aggregation":
            state, record = self._securely(number, state, first, watch)
        else:
            state, record = self._openly(number, state, first, watch)
        self.store.status(number, "keep")
        record = record.model_copy(update=self._told())
        self.store.finish_round(record.model_dump(), state)
        self.store.forget_before(number - self.settings.keep_checkpoints + 1)
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
        traffic = {site: TrafficRecord(sent=t.sent, received=t.received) for site, t in self.sites.traffic.items()}
        verdicts = sorted(self.sites.refused, key=lambda verdict: verdict.site)
        return {
            "traffic": dict(sorted(traffic.items())),
            "refused": [RefusedRecord(site=v.site, reason=v.reason.name, detail=v.detail) for v in verdicts],
            "missing": sorted(self.sites.missing),
            "unfit": sorted(self.strategy.unfit),
        }

    def _openly(self, number: int, state: State, first: bool, watch: Stopwatch) -> tuple[State, RoundRecord]:
        """A round in which the server sees each site's network."""
        with watch.phase("train"):
            Trips(self.sites, self.strategy, number, first).collect(state)
        with watch.phase("merge"):
            merged = self.strategy.align_collected()
        if len(merged.replies) < self.settings.min_sites:
            admitted = f"{len(merged.replies)} replies admitted ({', '.join(merged.replies)})"
            logger.warning("round %d is void: %s, min-sites is %d", number, admitted, self.settings.min_sites)
            return state, self._void_record(number, merged, watch)
        self.sites.merging = set(merged.aligned)
        return self._finish(number, merged, state, first, watch)

    def _securely(self, number: int, state: State, first: bool, watch: Stopwatch) -> tuple[State, RoundRecord]:
        """A round in which it sees their mean alone: there is nothing to match, to probe or to guard."""
        given = self.strategy.reference
        name, sent = ("given", given) if first and not isinstance(given, str) else ("global", state)
        nothing = MergedRound(name, sent, {}, {}, {}, {})
        with watch.phase("train"):
            opened = secure_mean(self.sites, self.strategy.spec, sent, number, first)
        self.sites.leave_out(*opened.refused)
        if opened.mean is None:
            self.sites.note(number, "void: no mean came of secure aggregation; the network before it stays")
            return state, self._void_record(number, nothing, watch)
        self.sites.merging = set(opened.weights)
        with watch.phase("recalibrate"):
            before, state = state, self._recalibrate(opened.mean, watch)
        if self._is_broken(number, state):
            return before, self._void_record(number, nothing, watch)
        with watch.phase("evaluate"):
            answers = evaluate(self.sites, {MERGED: state}, number, own=True)
        if self._is_lost(number, answers):
            return before, self._void_record(number, nothing, watch)
        notes = list(self.sites.notes)
        told = {"merged": _score(answers), "own": _own(answers), "weights": opened.weights, "notes": notes}
        return state, _record(number, "merged", nothing, watch).model_copy(update=told)

    def _void_record(self, number: int, collected: MergedRound, watch: Stopwatch) -> RoundRecord:
        return _record(number, "void", collected, watch).model_copy(update={"notes": list(self.sites.notes)})

    def _is_broken(self, number: int, merged: State) -> bool:
        """Whether a tensor of the merged network is not finite, whatever it came from: then the round is void."""
        broken = not_finite(merged)
        if broken:
            self.sites.note(number, f"void: tensor {broken!r} of the merge is not finite; the network before it stays")
        return bool(broken)

    def _is_lost(self, number: int, answers: dict[str, dict[str, LossSums]]) -> bool:
        """Whether the merged network has no loss to speak of at most of the sites that answered: the round is void.

        Its tensors may be finite and what they compute not: no site that starts from it ever comes back. Most, not
        one: else one site that says so would void every round.
        """
        lost = [site for site, found in answers.items() if not _has_loss(found.get(MERGED))]
        most = 2 * len(lost) > len(answers)
        if most:
            words = f"void: the merge has no loss below {MOST_LOSS:,.0f} at {len(lost)} of {len(answers)} sites"
            self.sites.note(number, f"{words}; the network before it stays")
        return most

    def _finish(
        self, number: int, collected: MergedRound, before: State, first: bool, watch: Stopwatch
    ) -> tuple[State, RoundRecord]:
        with watch.phase("probe"):
            paths = self._probe(number, collected)
        guarding = self.settings.guard and self.settings.probes
        merged, decisions = guard(collected, paths if guarding else {})
        if guarding:
            with watch.phase("guard"):
                guarded = (merged, decisions)
                merged, decisions = guard_mean(self.sites, self.model, self.strategy, collected, guarded, number)
        if undone := [site for site, each in decisions.items() if each.decision == "undone"]:
            self.sites.note(number, f"not aligned, since the mean has less loss so: {', '.join(undone)}")
        search = Search(self.sites, self.model, number)
        state = self._merge(merged, search, watch)
        if self._is_broken(number, state):
            return before, self._void_record(number, collected, watch)
        with watch.phase("evaluate"):
            answers = evaluate(self.sites, {MERGED: state}, number, own=True)
        mixed, score = state, _score(answers)
        if search.steps:
            with watch.phase("alone"):
                state, score = search.settle(merged, state, score)
        # Else the search took a site's own network, which these answers are not about.
        if state is mixed and self._is_lost(number, answers):
            return before, self._void_record(number, collected, watch)
        # Of the merge alone: what is measured beside it may lack a site that the merge had.
        notes = list(self.sites.notes)
        baselines = self._baselines(number, collected, search.alone, watch) if first else {}
        record = _record(number, "merged", collected, watch).model_copy(
            update={
                "merged": score,
                "own": _own(answers),
                "baselines": baselines,
                "guard": decisions,
                "mix": search.steps,
                "notes": notes,
                "paths": paths,
                "barrier": _greatest(paths),
                "variance": variance_ratios(state, merged.aligned, merged.weights),
            }
        )
        return state, record

    def _merge(self, merged: MergedRound, search: Search, watch: Stopwatch) -> State:
        """The merged network, with its statistics and its last layer renewed."""
        settings, number = self.settings, search.round_number
        with watch.phase("mean"):
            state: State = self.strategy.mean(merged)
        if settings.merge == "least-squares":
            with watch.phase("least squares"):
                state = merge_by_least_squares(self.sites, self.model, state, merged.aligned, number)
        if settings.merge == "sequential":
            with watch.phase("sequential"):
                state = merge_in_sequence(self.sites, self.model, state, merged.aligned, number)
        if settings.head == "counts":
            with watch.phase("head"):
                state = average_by_counts(self.model, state, merged.aligned, merged.replies, settings.classes)
        if settings.mix == "search":
            with watch.phase("search"):
                state = search.run(merged, state)
        with watch.phase("recalibrate"):
            state = self._recalibrate(state, watch)
        if settings.repair:
            with watch.phase("repair"):
                weights = list(merged.weights.values())
                state = repair(self.sites, self.model, state, merged.aligned, weights, number)
        if settings.head == "ridge":
            with watch.phase("ridge"):
                state = solve_heads(self.sites, self.model, {MERGED: state}, number).get(MERGED, state)
        if settings.head == "logistic":
            with watch.phase("logistic"):
                state, watch.head = fit_head(self.sites, self.model, state, number)
        return state

    def _recalibrate(self, state: State, watch: Stopwatch) -> State:
        """``state`` with its statistics renewed; the watch knows on how many samples."""
        renewed = recalibrate(self.sites, self.model, {MERGED: state}, watch.round_number)[MERGED]
        if self.settings.recalibrate_passes and keeps_statistics(self.model):
            watch.recalibration_samples = self.sites.samples_of(self.settings.statistics_samples)
        return renewed

    def _baselines(
        self, number: int, merged: MergedRound, alone: dict[str, Score], watch: Stopwatch
    ) -> dict[str, Score]:
        """What the merge must beat. ``alone`` is what is known of the sites' networks by now."""
        found: dict[str, Score] = {}
        if self.settings.baselines:
            with watch.phase("baselines"):
                found |= measure_baselines(self.sites, self.model, merged, number)
        elif alone:
            found |= alone
        elif self.settings.probes:
            # Probes send each site's network to all others anyway.
            with watch.phase("alone"):
                found |= measure_alone(self.sites, merged, number)
        if self.settings.variants:
            with watch.phase("variants"):
                found |= measure_variants(self.sites, self.model, self.strategy, merged, number)
        return found

    def _probe(self, number: int, merged: MergedRound) -> dict[str, SitePaths]:
        """For each site but the reference's, the line to its network as it came and aligned; one if nothing moved."""
        paths: dict[str, SitePaths] = {}
        reference = merged.network
        for site in merged.matchings if self.settings.probes else ():
            moved = site in merged.moved
            # Of a network that alignment leaves where it is there is one path, and few points show that it is flat.
            points = self.settings.probe_points if moved else FLAT_POINTS
            aligned = probe(self.sites, self.model, reference, merged.aligned[site], points, number)
            naive = aligned
            if moved:
                naive = self._probe_as_it_came(site, merged, points, number)
            if aligned is not None:
                paths[site] = SitePaths(naive=naive, aligned=aligned)
        return paths

    def _probe_as_it_came(self, site: str, merged: MergedRound, points: int, number: int) -> PathRecord | None:
        """The line to a site's network as it was trained, if that is known, to hold against the one just measured."""
        raw, told = merged.raw.get(site), self.sites.answered
        if raw is None:
            return None
        naive = probe(self.sites, self.model, merged.network, raw, points, number)
        # Losses on other samples say nothing about those.
        unseen = f"the line to {site} as it came is not known"
        return naive if self.sites.all_told(self.sites.answered, told, unseen, number) else None


def _record(number: int, outcome: str, merged: MergedRound, watch: Stopwatch) -> RoundRecord:
    return RoundRecord(
        round=number,
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


def _score(answers: dict[str, dict[str, LossSums]]) -> Score | None:
    """How the merged network does on the union of held-out samples; none where it diverged, or nobody answered."""
    sums = pool(answers)
    return Score.of(sums[MERGED]) if MERGED in sums else None


def _own(answers: dict[str, dict[str, LossSums]]) -> dict[str, Score]:
    """How each site's own network does at home."""
    return {site: Score.of(found[OWN]) for site, found in answers.items() if _is_known(found.get(OWN))}


def _is_known(sums: LossSums | None) -> bool:
    return sums is not None and isfinite(sums.loss)


def _has_loss(sums: LossSums | None) -> bool:
    return sums is not None and sums.loss < MOST_LOSS * sums.count


def _greatest(paths: dict[str, SitePaths]) -> BarrierRecord | None:
    if not paths:
        return None
    known = [path.naive.barrier for path in paths.values() if path.naive is not None]
    # Without one site's, the greatest of the others would be compared with the greatest of all.
    naive = max(known) if len(known) == len(paths) else None
    aligned = max(path.aligned.barrier for path in paths.values())
    return BarrierRecord(naive=naive, aligned=aligned, definition=DEFINITION)
