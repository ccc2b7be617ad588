"""Layers merged in closed form, from the Gram matrices of their inputs at every site."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from math import fsum, sqrt
from statistics import median_low

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from alignment.channels import PARTS, key_of
from alignment.least_squares import merge_layers
from alignment.moments import accumulate
from alignment.sequential import fit_layers
from server.recalibration import example_of, front_of, recalibrate
from server.sites import Sites
from strategies.decoding import read_state
from strategies.layer_sums import DTYPE, LayerSums, layer_sums
from strategies.protocol import ACROSS, CONFIG, GRAM, GRAMS, LAYERS, MERGED, OUTPUTS, OWN, State, to_arrays
from strategies.spool import Spool
from strategies.sums import check_finite_sums, check_gram, check_headers

logger = getLogger("fedrebasin")
Record = ArrayRecord | ConfigRecord | MetricRecord
MEAN_INSTEAD = "layers are merged by their mean"
# The most that a fitted layer's norm may be, in norms of that layer in the usual site's network. Fitting makes up for
# what averaging took from the layer's inputs: by trial that is one to seven norms. A hundred come of sums that no
# samples gave, and what runs behind such a layer would overflow at every honest site.
MOST_GROWTH = 100.0


def merge_by_least_squares(
    sites: Sites, model: nn.Module, mean: State, aligned: Mapping[str, State]
) -> dict[str, Tensor] | None:
    """``mean`` with the layers that the limit allows solved from the sites' Gram matrices of their aligned networks.

    Every site is sent its own network, as aligned, and answers for it. What it sends is told in the log beforehand.
    None when not every site answers, since a network without its Gram matrices would have no say, or what is solved
    could not be a network.
    """
    sums = layer_sums(model, example_of(sites.settings), sites.settings, in_sequence=False)
    _announce(sites, sums)
    asked = ConfigRecord({LAYERS: list(sums.chosen)})

    def content(site: str) -> RecordDict:
        return RecordDict({site: to_arrays(aligned[site]), CONFIG: asked})

    grams = sites.answers(GRAM, content, _reader(sums.chosen, sites.spool), only=aligned)
    if not sites.all_told(grams, aligned, MEAN_INSTEAD):
        return None
    shrinkage = sites.settings.gram_shrinkage
    merged = merge_layers(mean, list(aligned.values()), [grams[site] for site in aligned], shrinkage)
    return merged if _could_be(sites, merged, mean, aligned, sums.chosen) else None


def merge_in_sequence(sites: Sites, model: nn.Module, mean: State, aligned: Mapping[str, State]) -> dict[str, Tensor]:
    """``mean`` with one layer after another fitted to what that layer puts out in the sites' aligned networks.

    Each costs two trips: the statistics between what was fitted last and it, and the sums that fit it. Every site is
    sent the network so far beside its own, both as far as to that layer. The statistics behind the last layer are the
    caller's to renew. ``mean`` as it is when not every site answers.
    """
    settings = sites.settings
    sums = layer_sums(model, example_of(settings), settings, in_sequence=True)
    _announce(sites, sums)
    state: dict[str, Tensor] = dict(mean)
    for layer, rows in sums.chosen.items():
        state = recalibrate(sites, model, {MERGED: state}, until=layer)[MERGED]
        front = front_of(model, settings, layer)
        shared = {MERGED: to_arrays(_part(state, front)), CONFIG: ConfigRecord({LAYERS: [layer]})}

        def content(site: str, shared: Mapping[str, Record] = shared, front: Sequence[str] = front) -> RecordDict:
            return RecordDict({OWN: to_arrays(_part(aligned[site], front)), **shared})

        read = _fitting(layer, (rows, sums.outputs[layer]), sites.spool)
        answers = sites.answers(OUTPUTS, content, read, only=aligned)
        if not sites.all_told(answers, aligned, MEAN_INSTEAD):
            return dict(mean)
        pooled: dict[str, Tensor] = {}
        for site in aligned:
            accumulate(pooled, {name: each.double() for name, each in answers[site].items()})
        fitted = fit_layers(state, [{layer: (pooled[GRAMS], pooled[ACROSS])}])
        if not _could_be(sites, fitted, state, aligned, [layer]):
            return dict(mean)
        state = fitted
    return state


def _could_be(sites: Sites, fitted: State, before: State, aligned: Mapping[str, State], layers: Iterable[str]) -> bool:
    """Whether none of ``layers`` is `MOST_GROWTH` times as large as in the usual site's network; else notes which is.

    The usual one is the middle of their norms, the lower of two: one site makes no more room for itself.
    """
    for layer in layers:
        keys = [key_of(layer, part) for part in PARTS]
        # What was not fitted is the mean, however large that is.
        moved = [key for key in keys if key in fitted and fitted[key] is not before[key]]
        usual = median_low([_norm(state, moved) for state in aligned.values()])
        if not _norm(fitted, moved) <= MOST_GROWTH * usual:
            # Not finite, or so large; whose sums it was cannot be told from the solution.
            sites.note(f"{MEAN_INSTEAD}: the sums of {layer} give weights that no network has")
            return False
    return True


def _norm(state: State, keys: Iterable[str]) -> float:
    return sqrt(fsum(state[key].double().square().sum().item() for key in keys))


def _part(state: State, keys: Sequence[str]) -> State:
    return {key: state[key] for key in keys}


def _announce(sites: Sites, sums: LayerSums) -> None:
    """What sites are about to send, and which layers are not asked for."""
    if sums.shortfall:
        sites.note(sums.shortfall)
    logger.info("round %d: each site sends %s", sites.round_number, sums)


def _fitting(layer: str, shape: tuple[int, int], spool: Spool) -> Callable[[str, Message], State]:
    """What reads the sums of a layer with so many inputs and outputs, and has them wait in the ``spool``."""
    size, outputs = shape

    def read(site: str, reply: Message) -> State:
        found: dict[str, Tensor] = {}
        for name, shape in ((GRAMS, (size, size)), (ACROSS, (size, outputs))):
            record = reply.content.array_records.get(name, ArrayRecord())
            check_headers(site, record, {layer: (DTYPE, shape)}, "Gram matrix")
            found[name] = read_state(site, record)[layer]
        check_gram(site, found[GRAMS], f"Gram matrix of {layer}")
        check_finite_sums(site, found[ACROSS], f"products of {layer}")
        return spool.add(f"{site}, sums", found)

    return read


def _reader(layers: Mapping[str, int], spool: Spool) -> Callable[[str, Message], State]:
    """What reads the Gram matrices of layers with so many inputs, and has them wait in the ``spool``."""
    shapes = {name: (DTYPE, (rows, rows)) for name, rows in layers.items()}

    def read(site: str, reply: Message) -> State:
        record = reply.content.array_records.get(site, ArrayRecord())
        check_headers(site, record, shapes, "Gram matrix")
        grams = read_state(site, record)
        for name, tensor in grams.items():
            check_gram(site, tensor, f"Gram matrix of {name}")
        return spool.add(f"{site}, sums", grams)

    return read
