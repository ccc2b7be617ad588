"""Layers merged in closed form, from the Gram matrices of their inputs at every site."""

from collections.abc import Callable, Mapping
from logging import getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor, nn

from alignment.least_squares import gram_sizes, merge_layers
from server.sites import Sites
from server.sums import check_gram
from strategies.decoding import read_state
from strategies.errors import Reason, RefusedReply
from strategies.protocol import CONFIG, GRAM, LAYERS, State, to_arrays

logger = getLogger("fedrebasin")
MEGABYTE = 1_000_000
BYTES = 4


def merge_by_least_squares(
    sites: Sites, model: nn.Module, mean: State, aligned: Mapping[str, State], round_number: int
) -> dict[str, Tensor]:
    """``mean`` with the layers that the limit allows solved from the sites' Gram matrices of their aligned networks.

    Every site is sent its own network, as aligned, and answers for it. What it sends is told in the log beforehand.
    ``mean`` as it is when not every site answers: a network without its Gram matrices would have no say.
    """
    settings = sites.settings
    layers = affordable(gram_sizes(model), settings.gram_limit_megabytes)
    size = sum(rows * rows for rows in layers.values()) * BYTES / MEGABYTE
    logger.info("round %d: each site sends Gram matrices of %d layers, %.1f MB", round_number, len(layers), size)
    asked = ConfigRecord({LAYERS: list(layers)})

    def content(site: str) -> RecordDict:
        return RecordDict({site: to_arrays(aligned[site]), CONFIG: asked})

    grams = sites.answers(GRAM, content, round_number, _reader(layers), only=aligned)
    if grams.keys() != aligned.keys():
        logger.warning("round %d: merged by the mean, since Gram matrices are missing", round_number)
        return dict(mean)
    return merge_layers(mean, list(aligned.values()), [grams[site] for site in aligned], settings.gram_shrinkage)


def affordable(sizes: Mapping[str, int], limit_megabytes: float) -> dict[str, int]:
    """The layers whose Gram matrices fit into the limit together, the smallest first, in the order of the network."""
    left = limit_megabytes * MEGABYTE
    chosen: set[str] = set()
    for name, rows in sorted(sizes.items(), key=lambda item: item[1]):
        left -= rows * rows * BYTES
        if left >= 0:
            chosen.add(name)
    return {name: rows for name, rows in sizes.items() if name in chosen}


def _reader(layers: Mapping[str, int]) -> Callable[[str, Message], dict[str, Tensor]]:
    wanted = {name: ("float32", (rows, rows)) for name, rows in layers.items()}

    def read(site: str, reply: Message) -> dict[str, Tensor]:
        record = reply.content.array_records.get(site, ArrayRecord())
        headers = {name: (array.dtype, tuple(array.shape)) for name, array in record.items()}
        if headers != wanted:
            odd = next(iter(sorted(set(headers.items()) ^ set(wanted.items()))))
            raise RefusedReply(Reason.MALFORMED, site, f"Gram matrix {odd[0]!r}: unexpected or missing {odd[1]}")
        grams = read_state(site, record)
        for name, tensor in grams.items():
            check_gram(site, tensor, f"Gram matrix of {name}")
        return grams

    return read
