"""The settings of a run as tables in Markdown, by subject."""

from dataclasses import dataclass

from strategies.settings import Settings, as_shown


@dataclass(frozen=True)
class Group:
    """Settings that decide one thing.

    settings  keys of the run config, in the page's order; some are described by the one before
    """

    title: str
    decides: str
    settings: tuple[str, ...]


GROUPS = (
    Group(
        "The run",
        "What a run is called, where it is kept, and how long it lasts.",
        ("run", "federation", "runs-dir", "seed", "rounds", "keep-checkpoints"),
    ),
    Group(
        "Sites and deadlines",
        "How many sites a round needs, and how long it waits for them.",
        ("min-sites", "join-deadline-seconds", "round-deadline-seconds", "max-void-rounds"),
    ),
    Group(
        "Network",
        "What network all sites train; it must fit their samples.",
        ("model", "shape", "classes", "class-names", "width", "depth", "norm"),
    ),
    Group(
        "Samples",
        "What the sites train on, and what is held out to measure on.",
        ("data", "held-out", "split", "dirichlet-alpha"),
    ),
    Group(
        "Training",
        "What networks start from, and how each site trains its own.",
        (
            "start",
            "initial",
            "epochs",
            "later-epochs",
            "batch-size",
            "learning-rate",
            "later-learning-rate",
            "weight-decay",
            "logit-adjustment",
            "distillation",
            "autocast",
        ),
    ),
    Group(
        "Admission",
        "How far one site's network may pull the merge.",
        ("admission", "max-update-norm", "max-update-ratio", "max-weight-share"),
    ),
    Group(
        "Alignment",
        "What networks are aligned to before they are merged, who aligns them, and by what.",
        (
            "reference",
            "align-at",
            "site-matching",
            "matching-weight",
            "matching-samples",
            "refine",
            "restarts",
        ),
    ),
    Group(
        "Merge",
        "How aligned networks become one.",
        ("rule", "malicious-sites", "merge", "later-merge", "gram-shrinkage", "gram-limit-megabytes"),
    ),
    Group(
        "Statistics",
        "How the merged network's activations get the statistics that its layers expect.",
        ("recalibrate-passes", "statistics-samples", "path-samples", "repair"),
    ),
    Group(
        "Last layer",
        "How the merged network's last layer is made, which tells the classes apart.",
        ("head", "head-trips"),
    ),
    Group(
        "Guard, mix and probes",
        "What is measured on held-out samples beside the merged network, and what is chosen by that.",
        ("probe-points", "guard", "mix", "mix-points", "baselines", "variants"),
    ),
    Group(
        "Privacy",
        "What is done to a site's network before it leaves the site.",
        ("privacy", "secure-range", "secure-threshold", "clipping-norm", "dp-epsilon", "dp-delta"),
    ),
)


def settings_tables() -> str:
    """Each group with its heading, what it decides, and its table."""
    return "\n\n".join(f"## {group.title}\n\n{group.decides}\n\n{_table(group)}" for group in GROUPS)


def _table(group: Group) -> str:
    fields = {field.alias: field for field in Settings.model_fields.values()}
    rows = ["| setting | default | what it says |", "| --- | --- | --- |"]
    for key in group.settings:
        shown = as_shown(fields[key].default)
        said = " ".join((fields[key].description or "").split())
        rows.append(f"| `{key}` | {f'`{shown}`' if shown else 'empty'} | {said} |")
    return "\n".join(rows)
