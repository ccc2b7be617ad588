"""Alignment at the site, on its own training samples, which only it can see.

Activation matching (Git Re-Basin, arXiv 2209.04836, section 3.1) against the reference that the server sends.
"""

import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from logging import getLogger

import torch
from torch import Tensor, nn

from alignment import PermutationSpec, derive_spec, match_activations, match_weights, permute
from alignment.batches import network_with
from alignment.matching import Matching
from client.answers import batch_size
from client.bench import Bench
from client.sources import Samples
from models import Architecture, build, example_inputs
from strategies.alignments import pack_matching, pack_permutation
from strategies.protocol import ARRAYS, MATCHING, PERMUTATION, State, to_arrays

logger = getLogger("fedrebasin")


def aligned_answer(bench: Bench, reference: State, own: State) -> dict[str, object]:
    """The records that tell the server of ``own``, aligned to ``reference``.

    With ``align-at = site`` the weights go out aligned, and the permutation only where the run measures networks as
    they were trained; with ``both`` the weights go out as they are, beside the permutation.
    """
    spec = network_spec(Architecture(*bench.settings.network))
    start = time.monotonic()
    matching = match_at_site(bench, spec, reference, own)
    seconds = time.monotonic() - start
    sent = permute(spec, matching.permutation, own) if bench.settings.align_at == "site" else own
    records: dict[str, object] = {ARRAYS: to_arrays(sent), MATCHING: pack_matching(matching, seconds)}
    if bench.settings.tells_permutations:
        records[PERMUTATION] = pack_permutation(matching.permutation)
    return records


def match_at_site(bench: Bench, spec: PermutationSpec, reference: State, own: State) -> Matching:
    """The matching of ``own`` to ``reference`` by what the setting ``site-matching`` names.

    A network that weight matching leaves in place was trained from the reference and belongs where it is: that is told
    in a fraction of the time, and such a round comes out as FedAvg's. Weights alone decide too where the reference
    overflows: its activations tell nothing.
    """
    settings = bench.settings
    generator = torch.Generator().manual_seed(bench.site.seed(settings.seed, "alignment"))
    by_weights = match_weights(spec, reference, own)
    if not any(by_weights.moved.values()):
        return by_weights
    batches = list(_some_batches(bench.data.train, settings.matching_samples, bench.device, generator))
    if not _computes(bench.model, reference, batches):
        logger.warning("the reference puts out what is not finite on this site's samples: matched by weights alone")
        return by_weights
    weight = settings.matching_weight if settings.site_matching == "joint" else 0.0
    found = match_activations(spec, bench.model, reference, own, batches, weight, generator)
    if settings.site_matching == "then-weights":
        return match_weights(spec, reference, own, start=found.permutation, generator=generator)
    return found


@lru_cache(maxsize=4)
def network_spec(architecture: Architecture) -> PermutationSpec:
    """The permutation spec of the network that ``architecture`` describes: the same at every site and at the server."""
    return derive_spec(build(architecture, 0), example_inputs(architecture))


@torch.no_grad()
def _computes(model: nn.Module, state: State, batches: Iterable[Tensor]) -> bool:
    """Whether a network puts out finite numbers alone."""
    network = network_with(model, state)
    return all(bool(network(inputs).isfinite().all()) for inputs in batches)


def _some_batches(samples: Samples, most: int, device: torch.device, generator: torch.Generator) -> Iterator[Tensor]:
    """The inputs of at most ``most`` samples, drawn at random."""
    rows = torch.randperm(len(samples), generator=generator)[:most]
    for inputs, _ in samples.take(rows).batches(batch_size, device):
        yield inputs
