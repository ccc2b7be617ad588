"""A merge from files to a file: read, match, average, recalibrate, measure, write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from alignment import Matching, PermutationSpec, check_spec, permute
from alignment.batches import network_with
from alignment.interpolate import weighted_mean
from alignment.linear_layers import gram_sizes
from alignment.sequential import fitted_in_sequence
from alignment.unread import unread
from cli.bars import Advance, Bars
from cli.card import MEASURED, Card, DataRecord, InputRecord, network_record, share_moved, versions
from cli.evidence import Batches, Evidence
from cli.fitting import fitting_states
from cli.match import Matcher
from cli.measure import Judge
from cli.networks import TRACE_ALL, Description, Network, NetworkFile, State, check_samples, find_network, read_file
from cli.options import Layers, Method
from cli.output import warn
from cli.paths import OutputError, cards_of, labels
from cli.same import merged_same
from server.records import BarrierRecord, MatchingRecord
from server.remarks import unread_remarks
from strategies.files import sha256_of
from strategies.tensor_files import tensors_aside, write_aside


@dataclass(frozen=True)
class Plan:
    """One merge as it was asked for."""

    inputs: Sequence[Path]
    said: Description
    weights: Sequence[float]
    method: Method
    layers: Layers
    steps: int
    evidence: Evidence | None
    seed: int
    points: int


@dataclass(frozen=True)
class Aligned:
    """The inputs of a merge, read and aligned; the first is the reference, which has no matching."""

    network: Network
    spec: PermutationSpec
    files: Sequence[NetworkFile]
    states: Sequence[State]
    matchings: Sequence[Matching]

    def brought(self, k: int) -> State:
        """Input ``k`` with its units moved to the reference's."""
        return permute(self.spec, self.matchings[k - 1].permutation, self.states[k]) if k else self.states[0]


def write_merge(plan: Plan, output: Path, shown: Bars) -> Card:
    """Merges, writes the network and its card, all of them or nothing, and returns the card."""
    aligned = align(plan, shown)
    judge = Judge(aligned.network, plan.evidence, shown) if plan.evidence is not None else None
    states = [aligned.brought(k) for k in range(len(aligned.states))]
    merged = _mean(states, plan, judge)
    if plan.layers is Layers.SEQUENTIAL:
        merged = _fitted(merged, states, plan, aligned.network, shown)
    kept = {name: merged[name] for name in aligned.files[0].state}
    try:
        page, document = cards_of(output)
        # Measuring takes long: broken off, it must not leave a network without a card, or beside another's.
        with tensors_aside(output, kept, (page, document)) as aside:
            card = _card(plan, aligned, judge, aside, merged).model_copy(update={"file": output.name})
            write_aside(page, card.markdown())
            write_aside(document, card.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error}") from error
    return card


def align(plan: Plan, shown: Bars) -> Aligned:
    """Reads the inputs and matches each to the first."""
    with shown.stretch("reading", len(plan.inputs)) as advance:
        files = [_read(path, advance) for path in plan.inputs]
    samples = plan.evidence.data.samples if plan.evidence is not None else None
    network = find_network(plan.said, files[0], samples)
    if plan.evidence is not None and plan.evidence.apart is not None:
        check_samples(network, plan.evidence.apart.samples, "--held-out")
    states = fitting_states(network, files)
    with shown.stretch("deriving the permutation spec"):
        spec = network.derive()
    if not spec.groups:
        warn("Nothing in this network may move: the merge is the plain mean. `fedrebasin inspect` says why.")
    for remark in unread_remarks(unread(spec), TRACE_ALL):
        warn(remark)
    matcher = Matcher(network, spec, plan.method, plan.steps, plan.evidence, plan.seed, shown)
    names = labels(plan.inputs)
    pairs = zip(states[1:], names[1:], strict=True)
    matchings = [matcher.match(states[0], state, f"matching {name}") for state, name in pairs]
    return Aligned(network, spec, files, states, matchings)


def _read(path: Path, advance: Advance) -> NetworkFile:
    file = read_file(path)
    advance()
    return file


def _mean(states: Sequence[State], plan: Plan, judge: Judge | None) -> dict[str, Tensor]:
    mean = weighted_mean(states, plan.weights)
    return judge.recalibrated(mean) if judge is not None and judge.network.has_batch_norm else mean


def _fitted(
    merged: dict[str, Tensor], states: Sequence[State], plan: Plan, network: Network, shown: Bars
) -> dict[str, Tensor]:
    """``merged`` with every layer fitted in its turn."""
    assert plan.evidence is not None
    with shown.stretch("fitting layers", len(gram_sizes(network.module, network.example))) as advance:
        for state in fitted_in_sequence(network.module, merged, states, plan.weights, plan.evidence.data):
            merged = state
            advance()
    return merged


def _card(plan: Plan, aligned: Aligned, judge: Judge | None, output: Path, merged: State) -> Card:
    network, evidence = aligned.network, plan.evidence
    naive = judge.scores([_mean(aligned.states, plan, judge)])[0] if judge is not None else None
    measured_on = evidence.apart if evidence is not None else None
    return Card(
        file=output.name,
        sha256=sha256_of(output),
        parameters=sum(parameter.numel() for parameter in network.module.parameters()),
        network=network_record(network),
        method=plan.method,
        layers=plan.layers,
        steps=plan.steps if plan.method is Method.STRAIGHT_THROUGH else None,
        seed=plan.seed,
        inputs=_inputs(plan, aligned, judge),
        groups=len(aligned.spec.groups),
        units=sum(index.numel() for index in aligned.matchings[0].permutation.values()),
        proof=check_spec(network_with(network.module, aligned.states[0]), aligned.spec, network.example),
        statistics="none" if not network.has_batch_norm else "recalibrated" if judge is not None else "stale",
        data=_data(evidence.data) if evidence is not None else None,
        held_out=_data(measured_on) if measured_on is not None else None,
        naive=naive,
        merged=judge.scores([merged])[0] if judge is not None else None,
        measured=MEASURED if judge is not None and network.has_batch_norm else "",
        notes=merged_same(labels(plan.inputs), aligned.states),
        versions=versions(),
    )


def _inputs(plan: Plan, aligned: Aligned, judge: Judge | None) -> list[InputRecord]:
    scores = judge.scores(aligned.states) if judge is not None else [None] * len(aligned.states)
    rows = zip(labels(plan.inputs), aligned.files, plan.weights, scores, strict=True)
    records = [InputRecord(file=n, sha256=f.sha256, weight=w, score=score) for n, f, w, score in rows]
    return [records[0], *(_matched(r, k, plan, aligned, judge) for k, r in enumerate(records[1:], 1))]


def _matched(record: InputRecord, k: int, plan: Plan, aligned: Aligned, judge: Judge | None) -> InputRecord:
    matching = aligned.matchings[k - 1]
    barrier = None
    if judge is not None:
        paths = judge.paths(aligned.states[0], aligned.states[k], aligned.brought(k), plan.points)
        barrier = BarrierRecord(naive=paths.naive.barrier, aligned=paths.aligned.barrier, definition=judge.definition)
    found = {"matching": MatchingRecord.of(matching), "moved": share_moved(matching), "barrier": barrier}
    return record.model_copy(update=found)


def _data(batches: Batches) -> DataRecord:
    return DataRecord(name=batches.name, samples=len(batches.samples), sha256=batches.sha256)
