"""Every metric, one row each: the exporter, docs/metrics.md, the dashboards and the alerts all go by this table.

A name is ``fedrebasin_``, what is measured, the unit, and ``_total`` on counters. What is text stands in a label of an
``_info``. Nothing has a label for round or run, which grow without end; sites, groups and layers do not.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]
Unit = Literal["", "seconds", "timestamp_seconds", "bytes", "ratio", "nats"]
PREFIX = "fedrebasin_"
FEDERATION = "federation"
SITE = "site"
# Long enough for training on many samples, short enough to tell a mean over networks from nothing.
BUCKETS_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True)
class Metric:
    """One row. ``short`` is the name without prefix, unit and ``_total``."""

    short: str
    kind: Kind
    unit: Unit
    labels: tuple[str, ...]
    help: str

    @property
    def family(self) -> str:
        """The name without ``_total`` and ``_info``: what client libraries ask for."""
        return PREFIX + self.short + (f"_{self.unit}" if self.unit else "")

    @property
    def name(self) -> str:
        """The name in queries; of a histogram it is followed by ``_bucket``, ``_sum`` or ``_count``."""
        return self.family + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _of_run(short: str, kind: Kind, unit: Unit, help_text: str, *labels: str) -> Metric:
    return Metric(short, kind, unit, (FEDERATION, *labels), help_text)


BUILD = Metric("build", "info", "", ("version", "python"), "Versions of the exporter.")
CERTIFICATE_EXPIRY = Metric(
    "certificate_expiry", "gauge", "timestamp_seconds", ("certificate",), "When the certificate ends."
)
RUN_STORE = Metric(
    "run_store_readable", "gauge", "", (), "1 if the folder of runs can be read; at 0 nothing below is known."
)
RUN = _of_run("run", "info", "", "What the run is.", "model", "data", "start", "align_at", "merge", "head", "privacy")
PHASE = _of_run("phase", "info", "", "What the run is doing now.", "phase")
RUN_STATE = _of_run(
    "run_state",
    "gauge",
    "",
    "1 for the state of the run: active, finished, failed, or dead (not ended, and played by no process).",
    "state",
)
RUN_STARTED = _of_run("run_started", "gauge", "timestamp_seconds", "When the run began.")
PROGRESS = _of_run("progress", "gauge", "timestamp_seconds", "When the run last got a reply or changed its phase.")
PHASE_STARTED = _of_run("phase_started", "gauge", "timestamp_seconds", "When the phase began.")
PHASE_DEADLINE = _of_run(
    "phase_deadline",
    "gauge",
    "timestamp_seconds",
    "When the wait for replies, or for sites to join, ends; else absent.",
)
ROUND_DEADLINE = _of_run("round_deadline", "gauge", "seconds", "Longest wait for the replies to one question, as set.")
CURRENT_ROUND = _of_run("current_round", "gauge", "", "The round that is being played.")
PLANNED_ROUNDS = _of_run("planned_rounds", "gauge", "", "Rounds to play, as set.")
MIN_SITES = _of_run("min_sites", "gauge", "", "Fewest good replies that make a round, as set.")
ROUNDS = _of_run(
    "rounds",
    "counter",
    "",
    "Finished rounds: merged, or void for too few good replies or an unusable merge.",
    "outcome",
)
ROUND_FINISHED = _of_run("last_round_finished", "gauge", "timestamp_seconds", "When the last round finished.")
PHASE_DURATION = _of_run("phase_duration", "histogram", "seconds", "How long phases of finished rounds took.", "phase")

SITES = _of_run(
    "sites",
    "gauge",
    "",
    "Sites by state: joined; asked and replied, for the question under way; refused and late, at any of this round.",
    "state",
)
SITE_STATE = _of_run("site_state", "gauge", "", "1 where the site is in that state, else 0.", SITE, "state")
REPLIES = _of_run(
    "replies",
    "counter",
    "",
    "Networks that were admitted, and replies to any question that were refused, by reason.",
    SITE,
    "verdict",
)
SITE_WEIGHT = _of_run(
    "site_weight", "gauge", "ratio", "The site's share in the last mean; absent if the rule is another.", SITE
)
RECEIVED = _of_run(
    "site_received", "counter", "bytes", "Bytes of records that came from the site, in finished rounds.", SITE
)
SENT = _of_run("site_sent", "counter", "bytes", "Bytes of records that went to the site, in finished rounds.", SITE)

BARRIER = _of_run(
    "loss_barrier",
    "gauge",
    "nats",
    "Greatest loss above the mean of both ends on the line from reference to site, by stage: naive or aligned.",
    SITE,
    "stage",
)
ACCURACY = _of_run(
    "accuracy",
    "gauge",
    "ratio",
    "Accuracy on the union: merged; best_site, sites_mean (alone); best_, mean_before_merge; ensemble, naive if known.",
    "network",
)
LOSS = _of_run("loss", "gauge", "nats", "Cross-entropy of the same networks on the same samples.", "network")
SITE_ALONE = _of_run(
    "site_alone_accuracy",
    "gauge",
    "ratio",
    "Accuracy of the site's network alone, before the first merge, on the union; prior-corrected if that was measured.",
    SITE,
)
SITE_ACCURACY = _of_run(
    "site_accuracy",
    "gauge",
    "ratio",
    "Accuracy of the site's network in the last merge, by held_out: at home, or the union.",
    SITE,
    "held_out",
)
SITE_LOSS = _of_run("site_loss", "gauge", "nats", "Cross-entropy of the same.", SITE, "held_out")
GAIN = _of_run(
    "alignment_gain",
    "gauge",
    "nats",
    "Loss without alignment minus loss with it: of the mean with the reference or, where asked, of the mean of all.",
    SITE,
)
GUARD = _of_run(
    "guard_decisions",
    "counter",
    "",
    "Alignments by decision: aligned (kept), undone, unmoved, unseen (kept, not judged).",
    SITE,
    "decision",
)
VARIANCE = _of_run(
    "activation_variance",
    "gauge",
    "ratio",
    "Variance of a layer's activations in the merged network divided by that in the sites' own; 1 is healthy.",
    "layer",
)
RECALIBRATION_SAMPLES = _of_run(
    "recalibration_samples", "gauge", "", "Training samples on which the merged network's statistics were recomputed."
)
OBJECTIVE = _of_run("matching_objective", "gauge", "", "Σ ⟨reference, permuted⟩ over all permuted tensors.", SITE)
OBJECTIVE_GAIN = _of_run("matching_objective_gain", "gauge", "", "The objective minus that of the identity.", SITE)
SWEEPS = _of_run(
    "matching_sweeps",
    "gauge",
    "",
    "Passes over the groups; 0: the site's proposal was taken, or there is nothing to permute.",
    SITE,
)
MATCHING_DURATION = _of_run("matching_duration", "gauge", "seconds", "Time of the matching, at site and server.", SITE)
MOVED = _of_run("units_moved", "gauge", "ratio", "Share of a group's units that alignment moved.", SITE, "group")

CHECKPOINT = _of_run("checkpoint", "gauge", "bytes", "Size of the last round's network on disk.")
RESIDENT = _of_run("server_resident_memory", "gauge", "bytes", "Memory of the ServerApp when last heard of.")
UNREADABLE = _of_run("unreadable_lines", "gauge", "", "Lines of the run's rounds.jsonl that are no record of a round.")
UNREAD = _of_run(
    "unread_records", "gauge", "bytes", "Bytes of the run's rounds.jsonl that the exporter has yet to read."
)

# Each row above, in order: a row that is written is a row that counts.
CATALOGUE: tuple[Metric, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))


def metrics_table() -> str:
    """The catalogue as a table in Markdown."""
    rows = ["| metric | type | unit | labels | what it says |", "| --- | --- | --- | --- | --- |"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {metric.unit or '–'} | {labels} | {metric.help} |")
    return "\n".join(rows)
