"""Alignment in depth: for whoever asks why a merge came out as it did."""

from scripts.dashboards.panels import NEGATIVE_IS_BAD, Board, Panel, Query, Section, of, one
from server import metrics as m

BARRIER = Section(
    "The barrier, site by site",
    (
        Panel(
            "Naive, nats",
            "Greatest loss above the mean of both ends on the line to each site's network as it was trained.",
            "none",
            one(m.BARRIER, "{{site}}", "stage=naive"),
            decimals=3,
        ),
        Panel(
            "Aligned, nats",
            "The same with the site's units in the reference's order.",
            "none",
            one(m.BARRIER, "{{site}}", "stage=aligned"),
            decimals=3,
        ),
        Panel(
            "Taken off by alignment, nats",
            "Naive minus aligned, by site. Below 0 the line is higher with alignment; next to 0, its highest point may"
            " just be an end. The guard goes by the loss of means.",
            "none",
            (
                Query(
                    f"{of(m.BARRIER, 'stage=naive')} - ignoring (stage) {of(m.BARRIER, 'stage=aligned')}",
                    "{{site}}",
                ),
            ),
            steps=NEGATIVE_IS_BAD,
            decimals=3,
        ),
    ),
)
LOSSES = Section(
    "What the merge is worth",
    (
        Panel(
            "Loss on the union of held-out data",
            "Cross-entropy of the merge; of sites alone, and before the last merge; of ensemble and naive if measured.",
            "none",
            one(m.LOSS, "{{network}}"),
            decimals=3,
        ),
        Panel(
            "Sites before the merge, on the union",
            "Accuracy of each network as it went into the last merge, with BatchNorm's statistics of all sites, on"
            " everybody's held-out samples. After the first merge it is a copy of the merged one, trained on.",
            "percentunit",
            one(m.SITE_ACCURACY, "{{site}}", "held_out=union"),
            decimals=1,
        ),
        Panel(
            "Sites before the merge, loss",
            "Cross-entropy of the same networks on the union; and at home, with their own statistics.",
            "none",
            one(m.SITE_LOSS, "{{site}} {{held_out}}"),
            decimals=3,
        ),
    ),
)
MATCHING = Section(
    "How matching went",
    (
        Panel(
            "Objective gained",
            "What the permutation adds to Σ ⟨reference, permuted⟩. 0: nothing better than the identity was found.",
            "none",
            one(m.OBJECTIVE_GAIN, "{{site}}"),
            width=6,
            decimals=2,
        ),
        Panel(
            "Objective",
            "Σ ⟨reference, permuted⟩ over all tensors that a permutation touches.",
            "none",
            one(m.OBJECTIVE, "{{site}}"),
            width=6,
            decimals=1,
        ),
        Panel(
            "Sweeps",
            "Passes over the groups; 0: the site's own proposal was taken, or there is nothing to permute.",
            "none",
            one(m.SWEEPS, "{{site}}"),
            width=6,
        ),
        Panel(
            "Time to match",
            "At the site, by its own word, and at the server.",
            "s",
            one(m.MATCHING_DURATION, "{{site}}"),
            width=6,
        ),
    ),
)
DECISIONS = Section(
    "What was kept",
    (
        Panel(
            "Loss saved where the mean lies",
            "Loss without alignment minus loss with it: of the mean with the reference or, if the guard looked at that,"
            " of the mean of all. Below 0 the guard undoes the alignment.",
            "none",
            one(m.GAIN, "{{site}}"),
            steps=NEGATIVE_IS_BAD,
            width=12,
            decimals=3,
        ),
        Panel(
            "Guard decisions by site",
            "Aligned, undone, unmoved or unseen, over the time shown.",
            "none",
            (
                Query(
                    f"sum by (site, decision) (increase({of(m.GUARD)}[$__rate_interval]))",
                    "{{site}} {{decision}}",
                ),
            ),
            width=12,
        ),
    ),
)
GROUPS = Section(
    "Each group of units",
    (
        Panel(
            "Groups",
            "One row for each group: share of its units that moved in the last merge, over the sites.",
            "percentunit",
            (
                Query(f"min by (group) ({of(m.MOVED)})", "least moved"),
                Query(f"avg by (group) ({of(m.MOVED)})", "mean"),
                Query(f"max by (group) ({of(m.MOVED)})", "most moved"),
            ),
            "table",
            12,
            12,
            key="group",
        ),
        Panel(
            "Units moved by group, over time",
            "Mean over the sites. After the first merge sites start from the merged network, and little moves.",
            "percentunit",
            (Query(f"avg by (group) ({of(m.MOVED)})", "{{group}}"),),
            width=12,
            height=12,
        ),
    ),
)
VARIANCE = Section(
    "Each layer's variance",
    (
        Panel(
            "Variance of activations now, merged over sites' own",
            "By layer, in the last merge. 1 is healthy.",
            "none",
            one(m.VARIANCE, "{{layer}}"),
            "bargauge",
            12,
            decimals=2,
        ),
        Panel(
            "Over time",
            "The same, round after round.",
            "none",
            one(m.VARIANCE, "{{layer}}"),
            width=12,
            decimals=2,
        ),
    ),
)
BOARD = Board(
    "fedrebasin-alignment",
    "Alignment in depth",
    "Barriers, matchings, groups and layers of the last merges.",
    (BARRIER, LOSSES, MATCHING, DECISIONS, GROUPS, VARIANCE),
)
