"""The last layer of merged networks, made fit for all sites' labels together.

Label skew biases each site's last layer, which no permutation mends. Averaged by class counts, a site that never saw a
class has no say in its row; solved by ridge regression, it is what all samples in one place would give.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from alignment.barrier import LossSums
from alignment.channels import PARTS, key_of
from alignment.errors import StateError
from alignment.heads import GRAM, TARGETS, counts_head, feature_sums, makes_outputs, ridge_head, scaled_head, with_head
from alignment.moments import accumulate
from alignment.validate import not_finite
from models import head_name
from models.errors import ModelError
from server.chosen import UNSOLVED
from server.evaluation import pool, sums_reader
from server.recalibration import example_of
from server.sites import Sites
from strategies.admission import Admitted
from strategies.bounds import MOST_EXAMPLES
from strategies.decoding import read_state
from strategies.errors import OverflowReply, Reason, RefusedReply, SettingsError
from strategies.protocol import (
    CLASS_COUNTS,
    CONFIG,
    EVALUATE,
    FEATURES,
    N_EXAMPLES,
    SCALES,
    State,
    scaled_name,
    to_arrays,
)
from strategies.settings import Settings
from strategies.sums import GRAM_ROUNDING, MOST_SQUARED, check_asked, check_finite_sums, check_gram, check_headers

# Outputs of a ridge regression lie near 0..1; logits lie some tens apart.
scales = [2 ** (0.375 * number) for number in range(17)]


def class_counts(site: str, metrics: MetricRecord, classes: int) -> list[int]:
    """How many samples of each class the site says it has; raises `RefusedReply` where that cannot be."""
    said = metrics.get(CLASS_COUNTS)
    if not isinstance(said, list) or len(said) != classes or not all(isinstance(n, int) and n >= 0 for n in said):
        raise RefusedReply(Reason.COUNTS, site, f"{CLASS_COUNTS!r}: expected {classes} counts, got {said!r:.80}")
    counts = [int(count) for count in said]
    if sum(counts) != metrics.get(N_EXAMPLES):
        detail = f"{CLASS_COUNTS!r} add up to {sum(counts)}, {N_EXAMPLES!r} is {metrics.get(N_EXAMPLES)}"
        raise RefusedReply(Reason.COUNTS, site, detail)
    return counts


def check_head(model: nn.Module, settings: Settings) -> None:
    """Raises `SettingsError` where the run would renew a last layer that cannot be: before anybody trains."""
    if settings.head == "mean" and not settings.variants:
        return
    key, instead = ("variants", "variants = false") if settings.head == "mean" else ("head", "head = 'mean'")
    try:
        head = head_name(model)
    except ModelError as error:
        raise SettingsError(f"setting {key!r}: {error}. Set {instead}, or change the network.") from error
    state = model.state_dict()
    if key_of(head, "weight") not in state:
        raise SettingsError(
            f"setting {key!r}: the last layer, {head!r}, has no tensor {key_of(head, 'weight')!r} that could be set, "
            f"as where it holds its weights in another form. Set {instead}, or change the network."
        )
    n_outputs, has_bias = len(state[key_of(head, "weight")]), key_of(head, "bias") in state
    if not has_bias or n_outputs != settings.classes:
        raise SettingsError(
            f"setting {key!r}: the last layer, {head!r}, must have a bias and {settings.classes} outputs, one for each "
            f"class; got {n_outputs} outputs, {'a' if has_bias else 'no'} bias. Set {instead}, or change the network."
        )
    inputs = example_of(settings)
    targets = torch.zeros(len(inputs), dtype=torch.long)
    try:
        feature_sums(model, head, [(inputs, targets)], settings.classes)
    except StateError as error:
        raise SettingsError(f"setting {key!r}: {error}. Set {instead}, or change the network.") from error
    if not makes_outputs(model, head, inputs):
        raise SettingsError(
            f"setting {key!r}: the network puts out something else than its last linear layer, {head!r}. "
            f"Set {instead}, or have the network register its classifier last and return what that puts out."
        )


def feature_shapes(model: nn.Module, classes: int) -> dict[str, tuple[int, int]]:
    """The shapes of the sums over the inputs of the last layer, beside which stands a 1 for the bias."""
    rows = model.state_dict()[key_of(head_name(model), "weight")].shape[1] + 1
    return {GRAM: (rows, rows), TARGETS: (rows, classes)}


def average_by_counts(
    model: nn.Module, mean: State, aligned: Mapping[str, State], replies: Mapping[str, Admitted], classes: int
) -> dict[str, Tensor]:
    """``mean`` with each class's row of the last layer averaged by the sites' counts of that class.

    A site whose weight `max-weight-share` lowers has its counts lowered alike.
    """
    head = head_name(model)
    counts = torch.tensor([class_counts(site, one.metrics, classes) for site, one in replies.items()]).double()
    shares = torch.tensor([one.weight for one in replies.values()]).double()
    held = counts.sum(1)
    # Exactly 1 where nothing is lowered.
    counts *= torch.where(held > 0, shares / torch.where(held > 0, held, 1.0), 0.0)[:, None]
    keys = [key_of(head, part) for part in PARTS]
    weight, bias = (counts_head([aligned[site][key] for site in replies], counts, shares) for key in keys)
    return with_head(mean, head, weight, bias)


def solve_heads(sites: Sites, model: nn.Module, states: Mapping[str, State]) -> dict[str, dict[str, Tensor]]:
    """``states`` with their last layers solved by ridge regression on all sites' training samples.

    One trip for the sums, one for the scale of the logits, chosen by the loss on the sites' held-out samples. Empty
    where a site of the merge does not answer: a head without its samples would not know its classes.
    """
    content = RecordDict({name: to_arrays(state) for name, state in states.items()})
    solved = solved_layers(sites, model, content, list(states))
    networks = {name: {**states[name], **layer} for name, layer in solved.items()}
    return {name: state for name, (state, _) in scaled_heads(sites, model, networks).items()}


def scaled_heads(
    sites: Sites, model: nn.Module, networks: Mapping[str, State]
) -> dict[str, tuple[dict[str, Tensor], LossSums]]:
    """``networks`` with their logits times the factor of least loss on held-out samples, and how they do; one trip."""
    if not networks:
        return {}
    asked = RecordDict({name: to_arrays(state) for name, state in networks.items()})
    asked[CONFIG] = ConfigRecord({SCALES: scales})
    answers = sites.answers(EVALUATE, asked, sums_reader(scaled_names(networks)))
    best = best_scales(pool(answers), list(networks))
    if networks.keys() - best.keys():
        why = "at no scale of it all sites have a finite loss" if answers else "nobody answered which scale suits it"
        sites.note(f"{UNSOLVED}: {why}")
    head = head_name(model)
    return {name: (scaled_head(networks[name], head, scale), found) for name, (scale, found) in best.items()}


def solved_layers(
    sites: Sites, model: nn.Module, content: RecordDict, asked: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """The last layer, alone, of each network that ``content`` asks about, from all sites' sums.

    ``asked`` are the networks' names. Empty where a site of the merge does not answer.
    """
    return solve_layers(sites, model, pooled_features(sites, model, content, asked))


def solve_layers(
    sites: Sites, model: nn.Module, features: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """The last layer, alone, by ridge regression, of each network whose ``features`` give a finite one."""
    head = head_name(model)
    state = model.state_dict()
    like = {key: state[key] for key in (key_of(head, part) for part in PARTS)}
    solved = {name: with_head(like, head, *ridge_head(sums)) for name, sums in features.items()}
    finite = {name: layer for name, layer in solved.items() if not not_finite(layer)}
    if solved.keys() - finite.keys():
        # Asked about weights that are no numbers, sites would answer so, and be blamed for it.
        sites.note(f"{UNSOLVED}: the sums over features give weights that are not finite")
    return finite


def pooled_features(
    sites: Sites, model: nn.Module, content: RecordDict, asked: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """The sums over the features of each network that ``content`` asks about, over all sites; see `solved_layers`."""
    answers = sites.answers(FEATURES, content, _reader(model, sites, asked))
    # Without a site's samples it would not know their classes.
    if not sites.all_told(answers, sites.merging, UNSOLVED):
        return {}
    pooled: dict[str, dict[str, Tensor]] = {name: {} for name in asked}
    # In the order of the sites' names, and one site's at a time.
    for told in answers.values():
        for name, sums in pooled.items():
            accumulate(sums, told[name])
    return pooled if answers else {}


def scaled_names(names: Iterable[str]) -> list[str]:
    """What answers say of networks with their logits times each of the scales."""
    return [scaled_name(name, number) for name in names for number in range(len(scales))]


def best_scales(pooled: Mapping[str, LossSums], names: Sequence[str]) -> dict[str, tuple[float, LossSums]]:
    """By network, the factor of its logits that gives the least loss, and how it does with that."""
    found: dict[str, tuple[float, LossSums]] = {}
    for name in names:
        tried = [(s, pooled[scaled_name(name, k)]) for k, s in enumerate(scales) if scaled_name(name, k) in pooled]
        if tried:
            found[name] = min(tried, key=lambda one: one[1].loss)
    return found


def _reader(model: nn.Module, sites: Sites, asked: Sequence[str]) -> Callable[[str, Message], dict[str, State]]:
    """What reads the sums of each network ``asked`` about, and has them wait in the spool."""
    expected = {name: ("float64", shape) for name, shape in feature_shapes(model, sites.settings.classes).items()}

    def read(site: str, reply: Message) -> dict[str, State]:
        records = reply.content.array_records
        check_asked(site, records.keys(), asked)
        sums = {name: _sums(site, record, expected) for name, record in records.items()}
        return {name: sites.spool.add(f"{site}, features of {name}", each) for name, each in sums.items()}

    return read


def _sums(site: str, record: ArrayRecord, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """The sums, judged by their headers before they are read; raises `RefusedReply`."""
    check_headers(site, record, expected, "feature sums")
    sums = read_state(site, record)
    check_gram(site, sums[GRAM], "feature sums")
    check_finite_sums(site, sums[TARGETS], "feature sums of the classes")
    count = sums[GRAM][-1, -1].item()
    if not 0 < count <= MOST_EXAMPLES:
        raise RefusedReply(Reason.MOMENTS, site, f"{count:g} samples, expected 1 to {MOST_EXAMPLES:,}", "feature sums")
    if sums[GRAM].diagonal().max().item() / count > MOST_SQUARED:
        raise OverflowReply(Reason.MOMENTS, site, f"a mean square above {MOST_SQUARED:g}", "feature sums")
    if bool((sums[TARGETS][-1] < 0).any()):
        raise RefusedReply(Reason.MOMENTS, site, "a class has fewer than no samples", "feature sums")
    # Over all classes they are the sums of the features themselves, of which none is above √(n Σφ²).
    off = (sums[TARGETS].sum(1) - sums[GRAM][:, -1]).abs()
    if bool((off > GRAM_ROUNDING * (sums[GRAM].diagonal() * sums[GRAM][-1, -1]).sqrt() + GRAM_ROUNDING).any()):
        raise RefusedReply(Reason.MOMENTS, site, "the classes' sums do not add up", "feature sums")
    return sums
