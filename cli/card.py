"""The card of a merged network: where it comes from and what it is worth. The same merge gives the same bytes."""

import platform
from importlib.metadata import version
from typing import Literal

import torch
from jinja2 import Environment

from alignment import Matching
from cli.networks import Network
from server.records import BarrierRecord, MatchingRecord, Record, Score

STALE = (
    "The BatchNorm statistics are stale: they are the mean of the inputs' own, which fits no merged network. Until "
    "they are recalibrated, answers may be near chance. Merge again with --data, or recalibrate before any use: one "
    "pass over data in train mode with momentum=None, as alignment.recalibrate does."
)
STATISTICS = {
    "stale": STALE,
    "recalibrated": "The BatchNorm statistics were recomputed on the data.",
    "none": "The network has no BatchNorm statistics to recalibrate. Running statistics of other layers, where there "
    "are any, are the mean of the inputs' own.",
}

MEASURED = (
    "The inputs are measured as they are, with the BatchNorm statistics in their files; both means, and each point of "
    "a line, its ends included, with statistics recomputed on the data."
)


class DataRecord(Record, frozen=True):
    """Samples that a merge used."""

    name: str
    samples: int
    sha256: str


class InputRecord(Record, frozen=True):
    """One merged network. The first is the reference: it is not matched, and its path has no length.

    moved  share, 0..1, of all units that changed place
    """

    file: str
    sha256: str
    weight: float
    matching: MatchingRecord | None = None
    moved: float = 0.0
    score: Score | None = None
    barrier: BarrierRecord | None = None


class Card(Record, frozen=True):
    """What is said of a merged network.

    measured  which scores are of networks as they are, and which of recalibrated ones; empty where none is recalibrated
    notes     what may not be what was meant
    """

    file: str
    sha256: str
    parameters: int
    network: dict[str, str | int | None]
    method: str
    layers: str = "mean"
    steps: int | None
    seed: int
    inputs: list[InputRecord]
    groups: int
    units: int
    proof: float
    statistics: Literal["stale", "recalibrated", "none"]
    data: DataRecord | None
    held_out: DataRecord | None
    naive: Score | None
    merged: Score | None
    measured: str
    notes: list[str]
    versions: dict[str, str]

    @property
    def flatters(self) -> bool:
        """Whether the samples that judge also matched, fitted or recalibrated: weights alone need none for a mean."""
        used = self.method != "weights" or self.layers != "mean" or self.statistics == "recalibrated"
        return self.data is not None and self.held_out is None and used

    def markdown(self) -> str:
        """The card as a page."""
        # The page is Markdown, not HTML: names stay as they are.
        environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701
        return environment.from_string(PAGE).render(
            card=self,
            network=", ".join(f"{key} {value}" for key, value in self.network.items() if value),
            statistics=STATISTICS[self.statistics],
        )


def network_record(network: Network) -> dict[str, str | int | None]:
    """What is known of the architecture; empty and 0: the family's usual, or, of the shape, that nothing tells it.

    Classes are None where nothing tells them.
    """
    architecture = network.known
    return {
        "model": architecture.model,
        "shape": "" if network.shape_is_a_guess else "x".join(str(size) for size in architecture.shape),
        "classes": architecture.classes or None,
        "width": architecture.width,
        "depth": architecture.depth,
        "norm": architecture.norm,
    }


def share_moved(matching: Matching) -> float:
    """The share, 0..1, of all units that change place."""
    counts = {group: index.numel() for group, index in matching.permutation.items()}
    return sum(matching.moved[group] * count for group, count in counts.items()) / max(sum(counts.values()), 1)


def versions() -> dict[str, str]:
    """Of everything that has a say in the bytes."""
    named = {name: version(name) for name in ("fedrebasin", "numpy", "scipy", "safetensors")}
    return {"python": platform.python_version(), "torch": str(torch.__version__), **named}


PAGE = """\
# {{ card.file }}

{{ card.inputs|length }} networks, aligned to the first by their permutation symmetries (Git Re-Basin, arXiv 2209.04836)
and {% if card.layers == "sequential" %}merged, one layer fitted after another{% else %}averaged{% endif %}.
{% if card.statistics == "stale" %}

> **Do not use as it is.** {{ statistics }}
{% endif %}

| | |
| --- | --- |
| SHA-256 | `{{ card.sha256 }}` |
| network | {{ network }} |
| parameters | {{ card.parameters }} |
| method | {{ card.method }}{{ ", %d steps"|format(card.steps) if card.steps }} |
| layers | {{ card.layers }} |
| seed | {{ card.seed }} |
| units that may move | {{ card.units }} in {{ card.groups }} groups |
| proof | outputs differ by at most {{ "%.2g"|format(card.proof) }} under random permutations of all groups |
| running statistics | {{ statistics }} |

## Inputs

| file | SHA-256 | weight | objective | gain | units moved |
| --- | --- | ---: | ---: | ---: | ---: |
{% for each in card.inputs %}
{% set m = each.matching %}
| {{ each.file }} | `{{ each.sha256 }}` | {{ "%.4f"|format(each.weight) }} | \
{{ "%.6g"|format(m.objective) if m else "reference" }} | {{ "%.6g"|format(m.gain) if m }} | \
{{ "%.1f %%"|format(100 * each.moved) if m }} |
{% endfor %}
{% for note in card.notes %}

{{ note }}
{% endfor %}

The objective is Σ ⟨W_reference, π(W)⟩ over all tensors that a permutation touches; the gain is what π adds to it.

## Measurements
{% if card.data %}

{% if card.held_out %}
On {{ card.held_out.samples }} samples of `{{ card.held_out.name }}` (SHA-256 `{{ card.held_out.sha256 }}`);
made with {{ card.data.samples }} samples of `{{ card.data.name }}` (SHA-256 `{{ card.data.sha256 }}`).
{% elif card.flatters %}
On the same samples that the merge was made with, which flatters it:
{{ card.data.samples }} samples of `{{ card.data.name }}` (SHA-256 `{{ card.data.sha256 }}`).
{% else %}
On {{ card.data.samples }} samples of `{{ card.data.name }}` (SHA-256 `{{ card.data.sha256 }}`);
the merge was made without any.
{% endif %}
Losses are cross-entropies in nats.{{ " " ~ card.measured if card.measured }}

| network | accuracy | loss | barrier naive | barrier aligned |
| --- | ---: | ---: | ---: | ---: |
{% for each in card.inputs %}
{% set b = each.barrier %}
| {{ each.file }} | {{ "%.4f"|format(each.score.accuracy) }} | {{ "%.4f"|format(each.score.loss) }} | \
{{ "%.4f"|format(b.naive) if b }} | {{ "%.4f"|format(b.aligned) if b }} |
{% endfor %}
| mean without alignment | {{ "%.4f"|format(card.naive.accuracy) }} | {{ "%.4f"|format(card.naive.loss) }} | | |
| **this network** | {{ "%.4f"|format(card.merged.accuracy) }} | {{ "%.4f"|format(card.merged.loss) }} | | |
{% for each in card.inputs if each.barrier %}
{% if loop.first %}

The barrier is {{ each.barrier.definition }}, on the line from the first input to this one, without and with
permutation.
{% endif %}
{% endfor %}
{% else %}

None: no data was given.
{% endif %}

## Made with

{% for name, value in card.versions.items() %}
- {{ name }} {{ value }}
{% endfor %}
"""
