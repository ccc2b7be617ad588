"""The ServerApp."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from alignment.errors import AlignmentError
from alignment.spec import PermutationSpec
from alignment.tracing import derive_spec
from alignment.unread import unread
from models import Architecture, build
from models.errors import ModelError
from server.errors import StoreError
from server.given import first_reference, first_state
from server.heads import class_counts
from server.live import FINISHED, STARTING, failure
from server.remarks import network_remarks, unread_remarks
from server.report import write_report
from server.resume import Beginning, FinishedError, OtherRunError, begin
from server.run import Run
from server.sites import Sites
from server.store import RunStore
from server.taken import check_network
from strategies.bounds import Bounds
from strategies.errors import OperatorError, SettingsError
from strategies.fed_rebasin import FedRebasin
from strategies.idle import remarks
from strategies.logs import show_log
from strategies.settings import Settings, parse_settings
from strategies.spool import Spool

logger = getLogger("fedrebasin")
# What Python ends with that nobody caught.
UNFORESEEN = 1
USE_ALL = "let the forward of setting 'model' use it, or leave it out of the network"
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Plays the run that the run config describes. What ends it early is in the store's ``status.json``."""
    show_log()
    try:
        settings = parse_settings(context.run_config)
    except SettingsError as error:
        _tell_unread(context.run_config, error)
        raise
    store = RunStore(Path(settings.runs_dir) / settings.run)
    logger.info("server code: %s, run store: %s", Path(__file__), store.directory)
    for line in remarks(settings):
        logger.warning("%s", line)
    try:
        with store.held(), _failure_told(store):
            beginning = begin(store, settings)
            n_played = len(beginning.rounds)
            store.status(n_played, STARTING)
            play(grid, settings, store, beginning)
            write_report(store)
            store.status(max(settings.rounds, n_played), FINISHED)
    except StoreError as error:
        logger.error("%s", error)
        raise


@contextmanager
def _failure_told(store: RunStore) -> Generator[None]:
    """Tells in the store how what happens inside fails.

    Where another run lies there, or this one was finished, their status stands: the log alone says it.
    """
    try:
        yield
    except (FinishedError, OtherRunError):
        raise
    except Exception as error:
        _tell_failure(store, error)
        raise


def _tell_unread(run_config: Mapping[str, object], error: SettingsError) -> None:
    """Tells where the run would be kept that its settings cannot be read, if that is known and no run lies there."""
    logger.error("%s", error)
    named = {key: run_config[key] for key in ("run", "runs-dir") if key in run_config}
    try:
        known = parse_settings(named)
        store = RunStore(Path(known.runs_dir) / known.run)
        with store.held():
            if not store.rounds_path.exists():
                _tell_failure(store, error)
    except (OperatorError, OSError) as untold:
        logger.info("the log alone says so: %s", untold)


def _tell_failure(store: RunStore, error: Exception) -> None:
    if isinstance(error, OperatorError):
        store.tell(failure(str(error), error.exit_code))
    elif isinstance(error, ModelError | AlignmentError):
        store.tell(failure(str(error), OperatorError.exit_code))
    else:
        store.tell(failure(f"{type(error).__name__}: {error}", UNFORESEEN))


def play(grid: Grid, settings: Settings, store: RunStore, beginning: Beginning) -> None:
    """The rounds that are left of the run that ``settings`` describe."""
    model = build(Architecture(*settings.network), settings.seed)
    inputs = check_network(model, settings)
    model.load_state_dict(first_state(settings, model.state_dict()))
    # With nothing to permute the strategy is FedAvg, bit for bit.
    buffers = frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))
    nothing = PermutationSpec.by_hand(model.state_dict(), {}, buffers)
    strategy = FedRebasin(
        spec=nothing if settings.align_at == "none" else derive_spec(model, (inputs,)),
        reference=first_reference(settings, model.state_dict()),
        align_at="server" if settings.align_at == "none" else settings.align_at,
        refine=settings.refine,
        # Trained from one network, they are in one order, or near it.
        restarts=1 if settings.start == "shared" else settings.restarts,
        seed=settings.seed,
        spool=Spool(store.directory / "spool"),
        bounds=bounds_of(settings),
        rule=settings.rule,
        malicious=settings.malicious_sites,
        judge=partial(class_counts, classes=settings.classes) if settings.tells_class_counts else None,
    )
    sites = Sites(grid, settings, tell=store.tell, spool=strategy.spool)
    told = [*network_remarks(model, inputs, settings), *unread_remarks(unread(strategy.spec), USE_ALL)]
    Run(settings, store, sites, strategy, model, told).play(beginning)


def bounds_of(settings: Settings) -> Bounds:
    """How far one reply may carry the merge."""
    return Bounds(
        max_norm=settings.max_update_norm,
        max_ratio=settings.max_update_ratio,
        max_share=settings.max_weight_share,
        strict=settings.admission == "strict",
    )
