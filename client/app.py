"""The ClientApp: what a site does when the server asks."""

import importlib.metadata
from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from alignment.barrier import LossSums
from alignment.batches import network_with
from client.aligning import aligned_answer
from client.answered import check_answered, check_sent_as_it_is, sums_to_send
from client.answers import (
    features_answer,
    gram_answer,
    judge,
    layers_of,
    logistic_answer,
    moments_answer,
    outputs,
    outputs_answer,
    repair_answer,
    sums_answer,
)
from client.bench import Bench, set_up
from client.data import class_counts
from client.handlers import Handler, scrubbed
from client.own import keep_own, load_checkpoint, load_own
from client.privacy import private
from client.secure import secure
from client.site import Site
from client.sources import Drawn, Samples
from client.training import Objective, Schedule, Teacher, class_shift, train
from strategies.errors import OperatorError
from strategies.protocol import (
    ARRAYS,
    CLASS_COUNTS,
    DESCRIPTION,
    FIRST,
    LAMBDAS,
    METRICS,
    N_EXAMPLES,
    OWN,
    ROUND,
    SEND,
    START,
    TO_ALIGN,
    config_of,
    pack_description,
    pack_sums,
    to_arrays,
    to_state,
)
from strategies.settings import Settings

logger = getLogger("fedrebasin")
app = ClientApp()


def answering(
    answer: Callable[[Bench, Message], Mapping[str, object]],
) -> Handler:
    """A Flower handler around ``answer``, which returns the reply's records; what goes wrong stays here."""

    def handler(message: Message, context: Context) -> Message:
        bench = set_up(context)
        check_answered(bench.settings, message.metadata.message_type)
        return Message(RecordDict(dict(answer(bench, message))), reply_to=message)  # pyright: ignore[reportArgumentType]

    return scrubbed(handler)


def describe(bench: Bench, message: Message) -> Mapping[str, object]:
    """Who this site is and how many samples it has."""
    logger.info("client code: %s, version %s", Path(__file__), importlib.metadata.version("fedrebasin"))
    return {DESCRIPTION: pack_description(bench.site.name, len(bench.data.train), len(bench.data.held_out))}


def fit(bench: Bench, message: Message) -> Mapping[str, object]:
    """Trains from the site's own start or from the network sent, and keeps the result on the site's disk.

    Answers with the network, unless asked not to send it; asked to align, it aligns to the network sent.
    """
    config = config_of(message)
    if config.get(SEND, True) and not config.get(TO_ALIGN):
        check_sent_as_it_is(bench.settings, bool(config.get(FIRST, False)))
    match config.get(START):
        case "seed":
            pass
        case "checkpoint":
            bench.model.load_state_dict(load_checkpoint(bench.site))
        case _:
            bench.model.load_state_dict(to_state(message.content.array_records[ARRAYS]))
    number = int(str(config.get(ROUND, 1)))
    schedule = schedule_of(bench.settings, bench.site, number, bool(config.get(FIRST, number == 1)))
    objective = Objective(shift_of(bench.settings, bench.data.train), teacher_of(bench, message))
    loss = train(bench.model, bench.data.train, schedule, bench.device, objective)
    state = own_state(bench.model)
    keep_own(bench.site, state, number, bench.settings.keep_checkpoints if bench.settings.distillation else 1)
    metrics = {METRICS: own_metrics(bench, {"train-loss": loss})}
    if config.get(TO_ALIGN):
        return {**aligned_answer(bench, to_state(message.content.array_records[ARRAYS]), state), **metrics}
    return {ARRAYS: to_arrays(state), **metrics} if config.get(SEND, True) else metrics


def shift_of(settings: Settings, samples: Samples) -> Tensor | None:
    """What the run's `logit-adjustment` adds to the logits in training on ``samples``; their counts stay here."""
    return class_shift(class_counts(samples, settings.classes), settings.logit_adjustment)


def teacher_of(bench: Bench, message: Message) -> Teacher | None:
    """In later rounds, where the run asks for it: the ensemble of the network sent and the site's own of before."""
    config = config_of(message)
    # A first round may be played again, under another number.
    later = config.get(START) == "shared" and not config.get(FIRST, False)
    if not later or bench.settings.distillation == 0:
        return None
    own = load_own(bench.site, int(str(config.get(ROUND, 1))) - 1)
    if own is None:
        logger.warning("%s has no network of the round before: it trains without distillation", bench.site.name)
        return None
    states = (to_state(message.content.array_records[ARRAYS]), own)
    return Teacher([network_with(bench.model, state) for state in states], bench.settings.distillation)


def network(bench: Bench, message: Message) -> Mapping[str, object]:
    """The network that the site trained last, as it is."""
    return {ARRAYS: to_arrays(last_trained(bench)), METRICS: own_metrics(bench)}


def align(bench: Bench, message: Message) -> Mapping[str, object]:
    """The network that the site trained last, aligned to the reference that was sent."""
    reference = to_state(message.content.array_records[ARRAYS])
    return {**aligned_answer(bench, reference, last_trained(bench)), METRICS: own_metrics(bench)}


def last_trained(bench: Bench) -> dict[str, Tensor]:
    """The network on the site's disk. Raises `OperatorError` before there is one."""
    own = load_own(bench.site)
    if own is None:
        raise OperatorError(f"site {bench.site.name!r}: asked for its network before it trained one")
    return own


def own_metrics(bench: Bench, more: Mapping[str, float] | None = None) -> MetricRecord:
    """The number of training samples, that of each class where the run asks for it, and ``more``."""
    metrics: dict[str, int | float | list[int]] = {N_EXAMPLES: len(bench.data.train), **(more or {})}
    if bench.settings.tells_class_counts:
        metrics[CLASS_COUNTS] = class_counts(bench.data.train, bench.settings.classes)
    return MetricRecord(dict(metrics))  # pyright: ignore[reportArgumentType]


def schedule_of(settings: Settings, site: Site, round_number: int, first: bool) -> Schedule:
    """Before the first merge a site trains long, from scratch; later on from the merge, gently."""
    return Schedule(
        epochs=settings.epochs if first else settings.later_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate if first else settings.later_learning_rate,
        weight_decay=settings.weight_decay,
        seed=site.seed(settings.seed, f"order of samples, round {round_number}"),
        autocast=settings.autocast,
    )


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def recalibrate(bench: Bench, message: Message) -> Mapping[str, object]:
    """BatchNorm moments of the networks sent."""
    with bench.computing():
        return moments_answer(bench.model, message, statistics_samples(bench, message))


def statistics_samples(bench: Bench, message: Message) -> Drawn:
    """The training samples that statistics are taken of: as many as the settings allow, the same at each call.

    In an order that is drawn: of batches of one class each, as folders of images give them, BatchNorm would see others.
    """
    settings = bench.settings
    most = settings.path_samples if LAMBDAS in config_of(message) else settings.statistics_samples
    generator = torch.Generator().manual_seed(bench.site.seed(settings.seed, "samples of statistics"))
    return bench.data.train.drawn(most, generator)


def repair(bench: Bench, message: Message) -> Mapping[str, object]:
    """Moments of the outputs of every layer of the networks sent."""
    return repair_answer(bench.model, message, statistics_samples(bench, message))


def features(bench: Bench, message: Message) -> Mapping[str, object]:
    """Sums over the features of the networks sent."""
    with bench.computing():
        return features_answer(bench.model, message, statistics_samples(bench, message), bench.settings.classes)


def logistic(bench: Bench, message: Message) -> Mapping[str, object]:
    """Loss and gradient of the last layer of the networks sent."""
    with bench.computing():
        return logistic_answer(bench.model, message, statistics_samples(bench, message))


def gram(bench: Bench, message: Message) -> Mapping[str, object]:
    """Gram matrices of the inputs of the network's layers."""
    if len(message.content.array_records) != 1:
        raise OperatorError("asked for Gram matrices of several networks at once: not answered; the limit is of one")
    logger.info("sending %s", sums_to_send(bench.model, bench.settings, layers_of(message), in_sequence=False))
    return gram_answer(bench.model, message, statistics_samples(bench, message))


def fit_outputs(bench: Bench, message: Message) -> Mapping[str, object]:
    """What fits layers of the merged network to the outputs of the site's own."""
    layers = layers_of(message)
    sums = sums_to_send(bench.model, bench.settings, layers, in_sequence=True)
    if next(iter(sums.chosen), None) in layers:
        logger.info("sending %s", sums)
    return outputs_answer(bench.model, message, statistics_samples(bench, message))


def evaluate(bench: Bench, message: Message) -> Mapping[str, object]:
    """Loss and accuracy sums of the networks sent, and of the site's own when asked, on its held-out samples.

    With privacy nothing is said of the site's own, which does not leave it as it is.
    """
    with bench.computing():
        sums = sums_answer(bench.model, message, bench.data.held_out)
    own = load_own(bench.site) if config_of(message).get(OWN) and bench.settings.privacy == "none" else None
    if own is not None:
        sums[OWN] = own_sums(bench, own)
    return {METRICS: pack_sums(sums)}


def own_sums(bench: Bench, own: dict[str, Tensor]) -> LossSums:
    """How the site's own network does at home."""
    with bench.computing():
        return judge(outputs(bench.model, own, bench.data.held_out), bench.data.held_out.targets)


def probe(bench: Bench, message: Message) -> Mapping[str, object]:
    """Loss and accuracy sums along the path between two networks, on held-out samples."""
    with bench.computing():
        return {METRICS: pack_sums(sums_answer(bench.model, message, bench.data.held_out))}


app.query("describe")(answering(describe))
app.train(mods=[secure, private])(answering(fit))
app.query("network")(answering(network))
app.query("align")(answering(align))
app.query("recalibrate")(answering(recalibrate))
app.query("repair")(answering(repair))
app.query("features")(answering(features))
app.query("logistic")(answering(logistic))
app.query("gram")(answering(gram))
app.query("outputs")(answering(fit_outputs))
app.evaluate()(answering(evaluate))
app.query("probe")(answering(probe))
