"""Where a run goes on: after the last round whose network lies whole in the run store."""

from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger

from torch import Tensor

from server.errors import StoreError
from server.live import FINISHED
from server.records import RoundRecord
from server.store import RunStore
from server.summary import readable_rounds
from strategies.files import numbered, sha256_of
from strategies.settings import Settings

logger = getLogger("fedrebasin")
# What may differ from the settings that the run began with: what an operator may have to change to get it going again.
FREE = frozenset(
    {
        *("rounds", "runs-dir", "min-sites", "round-deadline-seconds", "join-deadline-seconds", "max-void-rounds"),
        *("keep-checkpoints", "admission", "max-update-norm", "max-update-ratio"),
    }
)


class FinishedError(StoreError):
    """The run was played to its end before, and its report is written."""


class OtherRunError(StoreError):
    """The folder holds a run with other settings."""


@dataclass(frozen=True)
class Beginning:
    """What a run starts from: the rounds that were finished before, and the network of the last one, if any."""

    rounds: tuple[RoundRecord, ...] = ()
    state: Mapping[str, Tensor] | None = None

    @property
    def merged(self) -> bool:
        """Whether any of the rounds merged."""
        return any(record.outcome == "merged" for record in self.rounds)

    @property
    def void_in_a_row(self) -> int:
        """How many of the last rounds were void."""
        outcomes = [record.outcome for record in reversed(self.rounds)]
        return next((n for n, outcome in enumerate(outcomes) if outcome != "void"), len(outcomes))

    @property
    def n_lost(self) -> int:
        """How many of the rounds were void because of what was made of the networks that came."""
        return sum(record.is_lost for record in self.rounds)

    @property
    def sites(self) -> set[str]:
        """The sites that took part, those that were missing later included."""
        return {site for record in self.rounds for site in (*record.traffic, *record.missing)}

    @property
    def unfit(self) -> set[str]:
        """The sites that were the reference of a round until the others' replies spoke against them."""
        return {site for record in self.rounds for site in record.unfit}


def begin(store: RunStore, settings: Settings) -> Beginning:
    """The beginning of a new run, or of one that was interrupted and has the same name and settings.

    Of a run that ended after its last round and before its report, no round is left to play. Raises `OtherRunError` for
    other settings, `FinishedError` for a run that is finished, `StoreError` where no network is whole any more.
    """
    told = settings.model_dump(by_alias=True)
    if not _lies_there(store, told):
        store.write_json("settings.json", told)
        return Beginning()
    beginning = last_whole(store, settings.keep_checkpoints)
    _check_unfinished(store, len(beginning.rounds), settings)
    store.write_json("settings.json", told)
    logger.info("run %s resumes after round %d", store.directory.name, len(beginning.rounds))
    return beginning


def check_goes_on(store: RunStore, settings: Settings) -> list[RoundRecord]:
    """The rounds of a run of that name, which would go on with these settings; none of a new one. Changes nothing.

    Raises `StoreError` where `begin` would, but for damaged networks and lines.
    """
    if not _lies_there(store, settings.model_dump(by_alias=True)):
        return []
    records, _ = readable_rounds(store)
    _check_unfinished(store, len(records), settings)
    return records


def last_whole(store: RunStore, n_newest: int) -> Beginning:
    """The finished rounds up to the last whose network is whole; lines after it, or half of one, are put aside.

    So is a line that cannot be read, with what follows. Raises `StoreError` when there are rounds, and none of the
    ``n_newest`` networks is whole: what sites keep of rounds before them is gone.
    """
    records, damage = readable_rounds(store)
    if damage:
        logger.warning("%s; going back to the round before", damage)
    newest = max((len(records), *numbered(store.directory / "checkpoints", "round-").values()))
    for number in range(len(records), max(0, newest - n_newest), -1):
        if _is_whole(store, records[number - 1]):
            if number < len(records) or damage or not store.ends_whole():
                store.keep_rounds(number)
            return Beginning(tuple(records[:number]), store.network(records[number - 1].round))
    if records or damage:
        found = damage or f"{len(records)} rounds are told of in {store.rounds_path}"
        raise StoreError(
            f"run {store.directory.name!r}: {found}, and none of the newest networks in "
            f"{store.directory / 'checkpoints'} is whole that are told of before. Restore {store.directory} from a "
            "backup, or name another run."
        )
    if not store.ends_whole():
        store.keep_rounds(0)
    return Beginning()


def _is_whole(store: RunStore, record: RoundRecord) -> bool:
    path = store.checkpoint_path(record.round)
    expected = record.checkpoint_sha256
    got = sha256_of(path) if path.is_file() else "no file"
    if got != expected:
        logger.warning(
            "round %d: %s is damaged or gone: expected SHA-256 %s, got %s; going back to the round before",
            *(record.round, path, expected, got),
        )
    return got == expected


def _lies_there(store: RunStore, now: Mapping[str, object]) -> bool:
    """Whether rounds of a run of that name lie there. Raises `OtherRunError` where its settings were others."""
    if not store.rounds_path.exists():
        return False
    before = store.read_json("settings.json")
    if before is None:
        raise StoreError(
            f"run {store.directory.name!r}: {store.rounds_path} tells of rounds, and no settings.json beside it says "
            "of which run. Restore it from a backup, or name another run."
        )
    _check_same(store, before, now)
    return True


def _check_unfinished(store: RunStore, n_rounds: int, settings: Settings) -> None:
    if n_rounds >= settings.rounds and store.told().get("phase") == FINISHED:
        raise FinishedError(
            f"run {store.directory.name!r}: all {n_rounds} rounds are finished in {store.directory}. "
            "Raise rounds to go on, or name another run."
        )


def _check_same(store: RunStore, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    # A run of a version that did not know a setting did what its default does.
    known = {**Settings().model_dump(by_alias=True), **before}
    differ = sorted(key for key in {*known, *now} - FREE if known.get(key) != now.get(key))
    if differ:
        shown = ", ".join(f"{key} was {known.get(key)!r} and is {now.get(key)!r}" for key in differ[:5])
        raise OtherRunError(
            f"run {store.directory.name!r}: {store.directory} holds a run with other settings: {shown}. Name another "
            "run, or set them as they were to resume it."
        )
