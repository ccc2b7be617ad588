"""Every setting of a run, parsed once from Flower's flat run config.

Server and sites read the same table, so that a misspelt key stops the run at its first line on both sides.
`pyproject.toml` repeats the defaults under ``[tool.flwr.app.config]``, because `flwr run --run-config` overrides
only keys that stand there; a test keeps the two equal.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from strategies.conflicts import conflicts
from strategies.errors import SettingsError
from strategies.explain import problems

# Patterns in words.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SHAPE = r"^\d+(x\d+)*$"
pattern_words = {
    NAME: "letters, digits, '.', '_' and '-', at most 64, the first a letter or a digit",
    SHAPE: "sizes such as 3x32x32",
}

# References by what they are; any other name is a site's.
REFERENCES = ("auto", "largest", "medoid", "global")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
OrUsual = Annotated[int, Field(ge=0)]


def _not_one(samples: int) -> int:
    """One sample has no variance."""
    if samples == 1:
        raise ValueError("0, for all, or 2 and more")
    return samples


AllOrSome = Annotated[int, Field(ge=0), AfterValidator(_not_one)]


def is_path(data: str) -> bool:
    """Whether ``data`` names a file or a folder, and neither the digits nor a function."""
    return data != "digits" and ":" not in data


class Settings(BaseModel, frozen=True):
    """One run's settings. Field names with ``-`` for ``_`` are the keys of the run config."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    run: Annotated[str, Field(pattern=NAME)] = "run"
    """Name of the run: a folder under `runs-dir`."""
    federation: Annotated[str, Field(pattern=NAME)] = "federation"
    """Name of the federation. A screen shows one of its runs: the one being played, else the one last heard of."""
    runs_dir: str = "runs"
    """Folder that holds the runs; absolute in a deployment."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the split, every site's start, the order of samples and, in training, dropout."""
    rounds: Count = 3
    """Rounds to play."""
    min_sites: Count = 2
    """Fewest sites that a run starts with, and fewest good replies that make a round. With fewer, a round is void."""
    round_deadline_seconds: Positive = 3600.0
    """Longest wait for the replies to one question. Training is one: a site that takes longer is late."""
    join_deadline_seconds: Positive = 600.0
    """Longest wait for `min-sites` sites and, until a round has merged, for the one that `reference` names."""
    max_void_rounds: OrUsual = 3
    """Most void rounds in a row; one more ends the run."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 5
    """How many merged networks are kept, the newest; and besides, if it is none of them, the one of least loss."""
    admission: Literal["strict", "lenient"] = "strict"
    """What becomes of an update whose norm is past a bound: `strict` refuses it, `lenient` only logs it."""
    max_update_norm: NotNegative = 0.0
    """Greatest norm of a site's update, all parameters together; 0: no bound."""
    max_update_ratio: NotNegative = 20.0
    """The same in medians of the round's norms, if three or more updates came; 0: no bound."""
    max_weight_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Greatest share of one site in the mean, however many samples it says it has. Under secure aggregation neither
    this nor the bounds above hold: nobody sees what one site adds to the sum."""
    rule: Literal["mean", "trimmed-mean", "median", "krum"] = "mean"
    """How aligned networks become one. `mean`: their weighted mean. `median`: each number's median. `trimmed-mean`:
    each number's mean without the `malicious-sites` greatest and least. `krum`: the network nearest to the others. All
    but `mean` give every site the same say."""
    malicious_sites: Count = 1
    """How many poisoned sites `trimmed-mean` and `krum` withstand."""

    model: str = "resnet20"
    """Network: `mlp`, `vgg11`, `vgg16`, `resnet20`, `resnet18`, `resnet50`, `gru`, `transformer`, or
    `module:function`, whose network is given samples in single precision and answers with a number for each class."""
    shape: Annotated[str, Field(pattern=SHAPE)] = "1x8x8"
    """Shape of one input without batch, such as `3x32x32`."""
    classes: Annotated[int, Field(ge=2)] = 10
    """Number of classes."""
    class_names: str = ""
    """Names of the classes in the order of their numbers, such as `normal,pneumonia`: those of a site's folders, the
    values in a column of parquet, or the classes of a site's function, as text. With names a site may lack a class.
    Empty: each site numbers its own in their order."""
    width: OrUsual = 0
    """Units of the narrowest hidden layer; 0: the network's usual."""
    depth: OrUsual = 0
    """Layers, as the network's name counts them; 0: the network's usual."""
    norm: Literal["", "batch", "layer", "none"] = ""
    """Normalisation: `batch` (not `gru`, `transformer`), `layer` (not `gru`) or `none` (not `resnet20`, `resnet18`,
    `resnet50`, `transformer`); empty: the network's usual."""

    data: str = "digits"
    """Samples: `digits`, a path that `datasets.load_dataset` reads, or `module:function`. A site's own `data` wins."""
    split: Literal["biased", "disjoint", "iid", "dirichlet"] = "biased"
    """How a simulation divides the data among its sites: `biased`, `disjoint`, `iid` or `dirichlet`."""
    dirichlet_alpha: Positive = 0.3
    """Concentration of the `dirichlet` split: the smaller, the more skewed."""
    held_out: Share = 0.2
    """Share of each class held out for evaluation alone."""

    start: Literal["seed", "checkpoint", "shared"] = "seed"
    """What sites start from in round 1: their own `seed`, their own `checkpoint`, or the `shared` network."""
    initial: str = ""
    """Path, at the server, of the safetensors file whose network goes out first; empty: a network drawn from `seed`."""
    epochs: OrUsual = 20
    """Passes over the data in round 1; 0: a site that starts from a `checkpoint` sends it as it is."""
    later_epochs: Count = 3
    """Passes over the data in later rounds."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Samples per step."""
    learning_rate: Positive = 0.1
    """Peak step size in round 1."""
    later_learning_rate: Positive = 0.02
    """Peak step size in later rounds. After one shot of `merge = sequential`, a tenth of the default mostly kept what
    the merge had, and the default mostly lost some: see
    [rounds after the merge](merge-quality.md#rounds-after-the-merge)."""
    weight_decay: NotNegative = 3e-3
    """Pull of the weights towards zero."""
    logit_adjustment: NotNegative = 0.0
    """In training alone, adds this share of the logarithms of a site's own class frequencies to its logits. With 1 its
    network does not learn which classes are frequent there, and answers as if all were equally so."""
    distillation: NotNegative = 0.0
    """Weight, in the training loss of later rounds, of the divergence from the ensemble of the networks that a site
    already holds: the one sent and its own of the round before."""
    autocast: bool = False
    """Trains and measures networks with products in bfloat16. That is three times as fast on processors with AMX, and
    slower on those without."""

    reference: str = "auto"
    """What round 1 aligns to. `largest`: the site with most samples. `medoid`: the site whose network is nearest to all
    others. `global`: the network that was sent out. Or a site's name, or the path of a safetensors file at the server.
    `auto` is `global` for a shared start and `largest` otherwise."""
    restarts: Count = 5
    """Most restarts of the server's weight matching; the best objective is kept."""
    align_at: Literal["server", "site", "both", "none"] = "both"
    """Who aligns. `server`: the server, by weights alone. `site`: each site, on its own data, and sends the aligned
    network. `both`: each site proposes a permutation, which the server checks and, with `refine`, refines. `none`:
    nobody; this is plain FedAvg, to compare with."""
    site_matching: Literal["activations", "then-weights", "joint"] = "joint"
    """What a site matches by: `activations`; these, and `then-weights` from there; or `joint`, both in one cost."""
    matching_weight: NotNegative = 0.3
    """Factor of weights in the `joint` cost: correlation of activations + this · cosine of weights."""
    matching_samples: Annotated[int, Field(ge=2)] = 2000
    """Most training samples that a site aligns on."""
    privacy: Literal["none", "clipping", "local-dp", "secure-aggregation"] = "none"
    """What a site does to its aligned network before it sends it. `none`: nothing. `clipping`: Flower clips its update
    to a norm. `local-dp`: clipping and Gaussian noise. `secure-aggregation`: Flower masks it, and only the sum can be
    read. All but `none` keep buffers at the site, and need `align-at = site`, `probe-points = 0`, `head`, `merge` and
    `mix` at `mean`, a reference that is no site's, as with `start = shared`, and
    [more](privacy.md#what-every-kind-of-privacy-asks-for). [Privacy](privacy.md) says what each covers and leaves
    open."""
    secure_range: Positive = 8.0
    """With `secure-aggregation`, parameters are cut to ± this and rounded to 2²² steps in between."""
    secure_threshold: Share = 0.6
    """With `secure-aggregation`, share of the sites that must stay to the end: above one half, and never fewer sites
    than `min-sites`, which is three or more."""
    clipping_norm: Positive = 1.0
    """Norm that updates are clipped to, all parameters together."""
    dp_epsilon: Positive = 0.5
    """With `local-dp`, ε of one round's update, below 1. The noise on each entry has the deviation 2 · `clipping-norm`
    · √(2 ln(1.25 / `dp-delta`)) / `dp-epsilon`."""
    dp_delta: Share = 1e-5
    """With `local-dp`, δ of one round's update."""
    refine: bool = False
    """With `both`, starts the server's weight matching from the site's proposal."""
    guard: bool = True
    """Undoes an alignment where the probes see more loss with it than without. With three sites or more, a reference
    that is none of them, or a line that has no loss, lines do not tell of the mean. Then the guard takes the mean with
    all, some or none of the alignments, whichever has least loss: by held-out losses never worse than FedAvg's. It does
    not judge what `merge`, `head` and `repair` make of that. It needs `probe-points`, and networks as they were
    trained, which with `align-at = site` only `baselines` and `variants` ask for; else it has nothing to judge by."""
    mix: Literal["mean", "best", "search"] = "mean"
    """Which network is the merged one: what `merge` made of all (`mean`), or what has least loss on held-out samples.
    `best` compares that and each site's network, and the one that sites were sent where that is the reference, as from
    round 2 on. `search` also tries what lies between them: it goes along the lines from network to network, then stage
    by stage (the network's direct children). Each is judged with its statistics and, with `head` at `ridge` or
    `logistic`, its last layer (by ridge) from everybody's samples. If in the end a site's network as it is has less
    loss, that is taken: by this loss never worse than the best site."""
    mix_points: Annotated[int, Field(ge=3)] = 9
    """Points on each line of the search."""
    statistics_samples: AllOrSome = 0
    """Most training samples that a site takes a network's statistics of; they stand for all that it holds. 0: all."""
    path_samples: AllOrSome = 2000
    """The same at each point of a line."""
    merge: Literal["mean", "least-squares", "sequential"] = "mean"
    """How layers are merged. `mean`: their weighted mean. `least-squares`: solved from Gram matrices of their inputs,
    which each site sends (RegMean). `sequential`: one after another, each fitted, on what the merged ones before feed
    it, to what it puts out in the sites' networks. That takes two trips for each layer; a trip is a question to all
    sites and their answers. Both solve `Linear`, and `Conv2d` with one group, padded by zeros. Layers whose weights
    have another name in the network too keep their mean, as with `repair`."""
    gram_shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """With `least-squares`, what is left of the Gram matrices' off-diagonals. More than 0.999 counts as 0.999: past it,
    single precision would decide."""
    gram_limit_megabytes: Positive = 64.0
    """Most that a site sends of Gram matrices and, with `sequential`, of products with outputs. Layers past it, the
    largest first, are merged by their mean."""
    head: Literal["mean", "counts", "ridge", "logistic"] = "mean"
    """How the merged network's last layer is made. `mean`: as `merge` made it. `counts`: each class's row averaged by
    the sites' counts of that class. `ridge`: solved by ridge regression from sums that the sites send of the merged
    network's features. `logistic`: from there by logistic regression, in `head-trips` more trips and one that compares.
    If several rounds solve it, a network without normalisation behind its last hidden layer needs `repair`: else
    features shrink, round by round, until training diverges."""
    head_trips: Count = 8
    """Trips of `head = logistic`. Its layer is kept if it has less loss on held-out samples than that of `ridge`."""
    recalibrate_passes: Count = 1
    """Trips in which BatchNorm statistics are recomputed. In the first, each site normalises by its own batches. In
    each further one, statistics one layer deeper become those of all sites together. Points of a line take one trip."""
    repair: bool = False
    """Gives the outputs of the merge's units the means and deviations that the sites' have (REPAIR). With BatchNorm it
    comes after the statistics are renewed, and corrects only the layers behind the last BatchNorm, often the one that
    `head` solves. Every site is sent all sites' networks for it, one a trip."""
    later_merge: Literal["same", "mean"] = "same"
    """What becomes of the networks in the rounds after the first that merges. `same`: what `merge`, `head`, `mix` and
    `repair` say. `mean`: their aligned mean, as if these were left out."""
    probe_points: OrUsual = 25
    """Points measured on the line between two networks, 3 or more with its ends; 0: no probing. A network that
    alignment does not move gets 3. With probing, each site's network is also measured alone in the first round that
    merges."""
    baselines: bool = False
    """Also measures, in the first round that merges, each site alone and prior-corrected, their ensemble and the naive
    mean. Sites then send their class counts and networks as they were trained, and see each other's networks."""
    variants: bool = False
    """Also measures, in the first round that merges, the naive and the aligned mean, each also with `head` at `counts`
    and `ridge`, the aligned one also by least squares; with or without `baselines`. Sites then send class counts and
    networks as they were trained, too."""

    def in_round(self, first: bool) -> "Settings":
        """What holds in a round, the ``first`` until one has merged."""
        plain = {"merge": "mean", "head": "mean", "mix": "mean", "repair": False}
        return self if first or self.later_merge == "same" else self.model_copy(update=plain)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        return tuple(int(size) for size in self.shape.split("x"))

    @property
    def paths(self) -> dict[str, str]:
        """Those of the settings `data`, `initial` and `reference` that name a file or a folder."""
        reference = self.reference if self.reference_is_file else ""
        found = {"reference": reference, "initial": self.initial, "data": self.data if is_path(self.data) else ""}
        return {key: path for key, path in found.items() if path}

    @property
    def led_by(self) -> str:
        """The setting `reference`, which has no say where nothing is aligned: there as if it were left out."""
        return self.reference if self.align_at != "none" else "auto"

    @property
    def reference_is_file(self) -> bool:
        """Whether the reference of round 1 is a file's network."""
        return self.led_by.endswith(".safetensors") or "/" in self.led_by

    @property
    def reference_is_site(self) -> bool:
        """Whether the reference of round 1 is the network of a site that the setting names."""
        return not self.reference_is_file and self.led_by not in REFERENCES

    @property
    def reference_is_known(self) -> bool:
        """Whether the server has the reference of round 1 before any site has trained."""
        shared = self.reference == "auto" and self.start == "shared"
        return self.reference_is_file or self.reference == "global" or shared

    @property
    def tells_class_counts(self) -> bool:
        """Whether sites tell how many samples of each class they hold."""
        return self.baselines or self.variants or self.head == "counts"

    @property
    def aligns_at_sites(self) -> bool:
        """Whether sites align, or propose how."""
        return self.align_at in ("site", "both")

    @property
    def tells_permutations(self) -> bool:
        """Whether sites tell how they permute their units: with it the server has each network as it was trained."""
        return self.align_at == "both" or (self.align_at == "site" and (self.baselines or self.variants))

    @property
    def probes(self) -> bool:
        """Whether the lines to the sites' networks are measured, with points between their ends."""
        return self.probe_points > 0

    @property
    def guards(self) -> bool:
        """Whether alignments are judged by what the lines to the sites' networks show."""
        return self.guard and self.probes

    @property
    def measures_lines(self) -> bool:
        """Whether sites measure points of lines between networks."""
        return self.probes or self.mix != "mean"

    @property
    def mixture_points(self) -> int:
        """Points on each line on which the merged network is looked for: where it is one of the networks, the ends."""
        return 2 if self.mix == "best" else self.mix_points

    @property
    def sends_grams(self) -> bool:
        """Whether sites send Gram matrices of the inputs of all layers at once."""
        return self.merge == "least-squares" or self.variants

    @property
    def solves_head(self) -> bool:
        """Whether the last layer is solved from sums over features."""
        return self.head in ("ridge", "logistic")

    @property
    def named_classes(self) -> tuple[str, ...]:
        """The classes' names in the order of their numbers; none where the run does not name them."""
        return split_names(self.class_names)

    @property
    def network(self) -> tuple[str, tuple[int, ...], int, int, int, str]:
        """What describes the network: the fields of `models.Architecture`, in their order."""
        return self.model, self.tensor_shape, self.classes, self.width, self.depth, self.norm


def split_names(text: str) -> tuple[str, ...]:
    """Names that stand with commas in between; none in an empty text."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def as_shown(value: object) -> str:
    """A setting's value for people: as a run config has it, texts without their quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_written(value: object) -> str:
    """A setting's value as a run config has it."""
    return repr(value) if isinstance(value, str) else as_shown(value)


def parse_settings(run_config: Mapping[str, object]) -> Settings:
    """The settings that ``run_config`` holds.

    Raises `SettingsError` that names each wrong key, with the nearest known key, or what was expected and got; then,
    of keys that are right by themselves, each that does not go together with another; see `strategies.conflicts`.
    """
    # TOML writes 1 for 1.0: an integer is welcome wherever a number is asked for.
    number_keys = {key for key, field in _fields().items() if field is float}
    config = {key: float(v) if key in number_keys and type(v) is int else v for key, v in run_config.items()}
    try:
        return _together(Settings.model_validate(config))
    except ValidationError as error:
        raise SettingsError("\n".join(problems(error, Settings, pattern_words))) from None


def _together(settings: Settings) -> Settings:
    """``settings``, unless some contradict each other; then `SettingsError` says which, why, and what goes."""
    if found := conflicts(settings):
        raise SettingsError("\n".join(found))
    return settings


def _fields() -> dict[str, object]:
    return {str(field.alias): field.annotation for field in Settings.model_fields.values()}
