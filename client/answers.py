"""Answers to what the server asks of networks that it sends: moments and sums over the site's own samples."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor, nn

from alignment.barrier import LossSums
from alignment.batch_norm import batch_norm_moments
from alignment.batches import network_with
from alignment.heads import feature_sums
from alignment.interpolate import interpolate
from alignment.least_squares import gram_sums
from alignment.logistic import logistic_sums
from alignment.repair import corrected_moments, unit_moments
from alignment.sequential import output_sums
from client.sources import Drawn, Samples
from models import head_name
from strategies.names import CORRECTED, ENSEMBLE
from strategies.protocol import (
    ACROSS,
    CANDIDATE_END,
    GOALS,
    GRAMS,
    LAMBDAS,
    LAYERS,
    LOG_PRIOR,
    MERGED,
    OWN,
    REFERENCE_END,
    SCALES,
    SETTLED,
    STATISTICS,
    UNTIL,
    State,
    config_of,
    scaled_name,
    to_arrays,
    to_state,
)

# Of more, a layer's activations soon have 32 MB, which glibc maps anew each time, page by page: see decision 0021.
batch_size = 128
# Large enough that the statistics of a batch, by which BatchNorm then normalises, are close to those of the whole.
statistics_batch_size = 512


def networks(message: Message) -> Iterator[tuple[str, State]]:
    """The networks that a message asks about: those it carries by name, or, between two ends, one for each λ."""
    records = message.content.array_records
    sent = {
        name: to_state(record) for name, record in records.items() if name != GOALS and not name.startswith(STATISTICS)
    }
    lambdas = config_of(message).get(LAMBDAS)
    if not isinstance(lambdas, list):
        yield from sent.items()
        return
    for number, lam in enumerate(lambdas):
        state = interpolate(sent[REFERENCE_END], sent[CANDIDATE_END], float(lam))
        statistics = records.get(f"{STATISTICS}{number}", ArrayRecord())
        yield str(number), {**state, **to_state(statistics)}


def moments_answer(model: nn.Module, message: Message, samples: Drawn) -> dict[str, ArrayRecord]:
    """The BatchNorm moments of each network on ``samples``.

    With ``until``, only of the layers before that one: what is behind it need not be sent.
    """
    config = config_of(message)
    until = str(config[UNTIL]) if UNTIL in config else None
    settled = bool(config.get(SETTLED, False))
    return {
        name: _told(batch_norm_moments(model, batches, settled, until), samples)
        for name, batches in _loaded(model, message, samples, statistics_batch_size, in_part=until is not None)
    }


def repair_answer(model: nn.Module, message: Message, samples: Drawn) -> dict[str, ArrayRecord]:
    """The moments of the outputs of every layer of each network; with ``goals``, each layer corrected to these."""
    given = message.content.array_records.get(GOALS)
    goals = to_state(given) if given is not None else None
    return {
        name: _told(
            unit_moments(model, batches) if goals is None else corrected_moments(model, goals, batches), samples
        )
        for name, batches in _loaded(model, message, samples, batch_size)
    }


def features_answer(model: nn.Module, message: Message, samples: Drawn, classes: int) -> dict[str, ArrayRecord]:
    """The sums over the features of each network on ``samples``, from which its last layer can be solved."""
    return {
        name: _told(feature_sums(model, head_name(model), batches, classes), samples)
        for name, batches in _loaded(model, message, samples, batch_size)
    }


def logistic_answer(model: nn.Module, message: Message, samples: Drawn) -> dict[str, ArrayRecord]:
    """The loss of each network on ``samples`` and its derivative by the last layer."""
    return {
        name: _told(logistic_sums(model, head_name(model), batches), samples)
        for name, batches in _loaded(model, message, samples, batch_size)
    }


def layers_of(message: Message) -> list[str]:
    """The layers whose sums a message asks for."""
    return [str(name) for name in cast(list[str], config_of(message)[LAYERS])]


def gram_answer(model: nn.Module, message: Message, samples: Drawn) -> dict[str, ArrayRecord]:
    """The Gram matrices, in single precision, of the inputs of the layers that are asked for."""
    layers = layers_of(message)
    return {
        name: _told(gram_sums(model, batches, layers), samples, torch.float32)
        for name, batches in _loaded(model, message, samples, batch_size)
    }


def outputs_answer(model: nn.Module, message: Message, samples: Drawn) -> dict[str, ArrayRecord]:
    """What fits layers of the merged network to the outputs of the site's own, in single precision.

    What is behind these layers in either network need not be sent.
    """
    layers = layers_of(message)
    sent = dict(networks(message))
    merged, own = (network_with(model, _completed(model, sent[name])) for name in (MERGED, OWN))
    batches = (inputs for inputs, _ in samples.batches(batch_size, next(model.parameters()).device))
    sums = output_sums(merged, own, batches, layers)
    grams = {layer: gram for layer, (gram, _) in sums.items()}
    across = {layer: products for layer, (_, products) in sums.items()}
    return {GRAMS: _told(grams, samples, torch.float32), ACROSS: _told(across, samples, torch.float32)}


def _loaded(
    model: nn.Module, message: Message, samples: Drawn, size: int, in_part: bool = False
) -> Iterator[tuple[str, Iterator[tuple[Tensor, Tensor]]]]:
    """Each network that a message asks about, by name, as soon as ``model`` holds it, and ``samples`` to run it on.

    These ``size`` at a time: all together they would be in memory as floats, where the data may be bytes. Of networks
    that came ``in_part``, the model keeps the rest of its own.
    """
    device = next(model.parameters()).device
    for name, state in networks(message):
        model.load_state_dict(_completed(model, state) if in_part else dict(state))
        yield name, samples.batches(size, device)


def _told(sums: Mapping[str, Tensor], samples: Drawn, dtype: torch.dtype = torch.float64) -> ArrayRecord:
    """``sums`` over ``samples``, times the number that each of these stands for: sites are pooled by what they hold."""
    return to_arrays({name: (tensor * samples.weight).to(dtype) for name, tensor in sums.items()})


def _completed(model: nn.Module, state: State) -> dict[str, Tensor]:
    """``state``, with what it leaves out taken from ``model``: nothing that is asked about depends on that."""
    return {**model.state_dict(), **state}


def sums_answer(model: nn.Module, message: Message, samples: Samples) -> dict[str, LossSums]:
    """For each network, Σ loss and Σ right answers on ``samples``.

    A network with a ``log-prior.NAME`` in the config is also judged after prior correction: log p(y|x) − log p_site(y)
    is what it would say had it seen all classes equally often. ``ensemble`` names networks whose probabilities are
    averaged. With ``scales``, each network is judged with its logits times each of them instead.
    """
    config = config_of(message)
    logits = {name: outputs(model, state, samples) for name, state in networks(message)}
    for name in list(logits):
        prior = config.get(LOG_PRIOR + name)
        if isinstance(prior, list):
            logits[name + CORRECTED] = logits[name] - torch.tensor(prior, dtype=torch.float64)
    scales = config.get(SCALES)
    if isinstance(scales, list):
        logits = {scaled_name(n, k): float(s) * each for n, each in logits.items() for k, s in enumerate(scales)}
    members = config.get(ENSEMBLE)
    if isinstance(members, list) and members:
        chances = torch.stack([logits[str(name)].softmax(-1) for name in members])
        logits[ENSEMBLE] = chances.mean(0).log()
    return {name: judge(each, samples.targets) for name, each in logits.items()}


@torch.no_grad()
def outputs(model: nn.Module, state: State, samples: Samples) -> Tensor:
    """The logits of a network on ``samples``, in fp64 on the CPU."""
    device = next(model.parameters()).device
    model.load_state_dict(dict(state))
    model.eval()
    return torch.cat([model(inputs).cpu().double() for inputs, _ in samples.batches(batch_size, device)])


def judge(logits: Tensor, targets: Tensor) -> LossSums:
    """The number of samples, Σ cross-entropy in nats, Σ right answers."""
    loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
    return LossSums(len(targets), float(loss), float((logits.argmax(-1) == targets).sum()))
