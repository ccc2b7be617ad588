"""What an operator sees first: top to bottom, the questions of a night shift."""

from scripts.dashboards.panels import (
    BAD,
    GOOD,
    JOB_AND_INSTANCE,
    NEGATIVE_IS_BAD,
    SO_SO,
    SOME_ARE_BAD,
    Board,
    Panel,
    Query,
    Section,
    of,
    one,
    rises,
)
from server import metrics as m
from server.live import STATES

STATE_COLOURS = {"active": "blue", "finished": GOOD, "failed": BAD, "dead": BAD}
# The state's number, from 1, which a panel can give a text and a colour; a legend it could not.
STATE_NUMBER = " or ".join(f"{of(m.RUN_STATE, f'state={state}')} * {number}" for number, state in enumerate(STATES, 1))

UP = Section(
    "Is it up, and where does it stand?",
    (
        Panel(
            "Exporter",
            "Whether Prometheus reaches the exporter, and that the runs' folder. If not, nothing below is known.",
            "bool_yes_no",
            (Query(f"up{{{JOB_AND_INSTANCE}}}", "{{instance}}"), *one(m.RUN_STORE, "run store")),
            "stat",
            3,
            4,
            ((None, BAD), (1.0, GOOD)),
        ),
        Panel(
            "Run",
            "Active, finished or failed; dead if it has not ended and no process plays it. A failed run says why in"
            " status.json; see FedrebasinRoundStalled.",
            "none",
            (Query(f"sum without (state) ({STATE_NUMBER})", "{{federation}}"),),
            "stat",
            3,
            4,
            texts=tuple((number, state, STATE_COLOURS[state]) for number, state in enumerate(STATES, 1)),
        ),
        Panel(
            "Phase",
            "What the run is doing now.",
            "none",
            one(m.PHASE, "{{phase}}"),
            "stat",
            3,
            4,
            names_only=True,
        ),
        Panel(
            "Round",
            "The round that is being played, and how many are planned.",
            "none",
            (*one(m.CURRENT_ROUND, "now"), *one(m.PLANNED_ROUNDS, "of")),
            "stat",
            4,
            4,
        ),
        Panel(
            "Since the last finished round",
            "How long ago a round last finished.",
            "s",
            (Query(f"time() - {of(m.ROUND_FINISHED)}", "{{federation}}"),),
            "stat",
            4,
            4,
        ),
        Panel(
            "Since anything was heard",
            "How long ago a reply came or the phase changed. Past the deadline for replies, the run has stopped.",
            "s",
            (Query(f"time() - {of(m.PROGRESS)}", "{{federation}}"),),
            "stat",
            4,
            4,
        ),
        Panel(
            "Left to the deadline",
            "Time left to wait for replies, or for sites to join; empty while none are waited for.",
            "s",
            (Query(f"{of(m.PHASE_DEADLINE)} - time()", "{{federation}}"),),
            "stat",
            3,
            4,
        ),
        Panel(
            "Alerts",
            "Prometheus' alerts that are pending or firing. The runbook has a section for each.",
            "none",
            (),
            "alertlist",
            24,
            4,
        ),
    ),
)
SITES = Section(
    "Are the sites with us?",
    (
        Panel(
            "Sites",
            "Joined; asked and replied, for the question under way; needed for a round.",
            "none",
            (
                *one(m.SITES, "joined", "state=joined"),
                *one(m.SITES, "asked", "state=asked"),
                *one(m.SITES, "replied", "state=replied"),
                *one(m.MIN_SITES, "needed"),
            ),
            "stat",
            8,
            4,
        ),
        Panel(
            "Refused in this round",
            "Sites whose reply to any question of the round under way was refused, or came too late.",
            "none",
            (*one(m.SITES, "refused", "state=refused"), *one(m.SITES, "late", "state=late")),
            "stat",
            4,
            4,
            SOME_ARE_BAD,
        ),
        Panel(
            "Refusals and why",
            "Replies to any question of a round that were refused over the time shown, by site and verdict; see"
            " FedrebasinReplyRefused.",
            "none",
            (Query(f"round({rises(m.REPLIES, 'verdict!=admitted')}) > 0", "{{site}}: {{verdict}}"),),
            "stat",
            8,
            4,
            SOME_ARE_BAD,
        ),
        Panel(
            "Rounds",
            "Rounds that merged and rounds that were void, over the time shown.",
            "none",
            (Query(f"round({rises(m.ROUNDS)})", "{{outcome}}"),),
            "stat",
            4,
            4,
        ),
    ),
)
HELPED = Section(
    "Did the merge help?",
    (
        Panel(
            "Merged over best site",
            "Accuracy of the merged network minus that of the best site alone, before the first merge. Above 0 the"
            " merge helped. Unknown if no site was measured alone.",
            "percentunit",
            (
                Query(
                    f"{of(m.ACCURACY, 'network=merged')} - ignoring (network) {of(m.ACCURACY, 'network=best_site')}",
                    "{{federation}}",
                ),
            ),
            "stat",
            4,
            8,
            NEGATIVE_IS_BAD,
            decimals=1,
            empty="unknown",
        ),
        Panel(
            "Barrier in nats, naive and aligned",
            "By site, the greatest loss above the mean of both ends on the line from the reference. Aligned should be"
            " far below naive; both are equal if nothing had to move.",
            "none",
            one(m.BARRIER, "{{site}} {{stage}}"),
            "bargauge",
            8,
            8,
            decimals=3,
        ),
        Panel(
            "Accuracy on the union of held-out data",
            "The merged network. Best site and mean of sites: alone, before the first merge. Best and mean before"
            " merge: as sites went into the last. Ensemble and naive mean in rounds that measured them.",
            "percentunit",
            one(m.ACCURACY, "{{network}}"),
            width=6,
            decimals=1,
        ),
        Panel(
            "Barrier over time, nats",
            "The greatest over the sites, naive and aligned, in nats.",
            "none",
            (Query(f"max by (federation, stage) ({of(m.BARRIER)})", "{{stage}}"),),
            width=6,
            decimals=2,
        ),
    ),
)
TIME = Section(
    "Where did the time go?",
    (
        Panel(
            "Time by phase",
            "Seconds in each phase, of the rounds that finished over the time shown.",
            "s",
            (Query(f"sum by (phase) ({rises(m.PHASE_DURATION, part='_sum')})", "{{phase}}"),),
            "bargauge",
        ),
        Panel(
            "Nine of ten phases took less than",
            "The 90th percentile by phase, over the time shown; no finer than the histogram's buckets.",
            "s",
            (
                Query(
                    f"histogram_quantile(0.9, sum by (le, phase) ({rises(m.PHASE_DURATION, part='_bucket')}))",
                    "{{phase}}",
                ),
            ),
            "bargauge",
        ),
        Panel(
            "How long this phase and this run have been going",
            "Time since the phase began, and since the run did.",
            "s",
            (
                Query(f"time() - {of(m.PHASE_STARTED)}", "phase"),
                Query(f"time() - {of(m.RUN_STARTED)}", "run"),
            ),
        ),
    ),
)
ALIGNMENT = Section(
    "Is alignment doing anything?",
    (
        Panel(
            "Units moved by group",
            "Share of each group's units that alignment moved, mean over the sites. 0: the networks are aligned.",
            "percentunit",
            (Query(f"avg by (group) ({of(m.MOVED)})", "{{group}}"),),
            "bargauge",
            decimals=0,
        ),
        Panel(
            "Guard decisions",
            "Alignments that were aligned: kept; undone: the loss is less without; unmoved: there was nothing to move; "
            "unseen: kept with nothing to judge them by.",
            "none",
            (Query(f"sum by (decision) (round({rises(m.GUARD)}))", "{{decision}}"),),
            "stat",
        ),
        Panel(
            "What alignment saves",
            "By site, loss without alignment minus loss with it: of the mean with the reference or, if the guard looked"
            " at that, of the mean of all. Empty if nothing moved, or no loss is known.",
            "none",
            one(m.GAIN, "{{site}}"),
            decimals=3,
        ),
    ),
)
VARIANCE = Section(
    "Does variance collapse?",
    (
        Panel(
            "Variance of activations, merged over sites' own",
            "By layer. 1 is healthy; near 0, units answer every input alike. The first merge of networks that started"
            " apart begins low, and later rounds bring it back.",
            "none",
            one(m.VARIANCE, "{{layer}}"),
            width=16,
            steps=((None, BAD), (0.1, SO_SO), (0.5, GOOD)),
            decimals=2,
        ),
        Panel(
            "Samples behind the statistics",
            "Training samples on which the merged network's BatchNorm statistics were recomputed; 0: they were not.",
            "none",
            one(m.RECALIBRATION_SAMPLES, "{{federation}}"),
            "stat",
        ),
    ),
)
COST = Section(
    "What does it cost?",
    (
        Panel(
            "Memory of the server",
            "Resident memory of the ServerApp. It does not grow with the number of sites.",
            "bytes",
            one(m.RESIDENT, "{{federation}}"),
            width=6,
        ),
        Panel(
            "Bytes by site",
            "Bytes of records to and from each site, per second.",
            "Bps",
            (
                Query(f"rate({of(m.RECEIVED)}[$__rate_interval])", "from {{site}}"),
                Query(f"rate({of(m.SENT)}[$__rate_interval])", "to {{site}}"),
            ),
            width=10,
        ),
        Panel(
            "Checkpoint",
            "Size of the last round's network on disk.",
            "bytes",
            one(m.CHECKPOINT, "{{federation}}"),
            "stat",
            4,
        ),
        Panel(
            "Certificates end in",
            "Time until each certificate ends; below 0 it has ended. See FedrebasinCertificateExpiresSoon.",
            "s",
            (Query(f"{of(m.CERTIFICATE_EXPIRY)} - time()", "{{certificate}}"),),
            "stat",
            4,
            steps=((None, BAD), (14 * 86400.0, GOOD)),
        ),
    ),
)
EACH_SITE = Section(
    "Each site",
    (
        Panel(
            "Sites",
            "One row for each site: networks admitted and replies refused over the time shown, its network in the last"
            " merge, and how it did alone before the first. There is no share if the rule is not the mean.",
            "none",
            (
                Query(f"round(sum by (site) ({rises(m.REPLIES, 'verdict=admitted')}))", "admitted"),
                Query(f"round(sum by (site) ({rises(m.REPLIES, 'verdict!=admitted')}))", "refused"),
                Query(f"max by (site) ({of(m.SITE_STATE, 'state=joined')})", "is there"),
                Query(f"max by (site) ({of(m.SITE_WEIGHT)})", "share"),
                Query(f"max by (site) ({of(m.BARRIER, 'stage=naive')})", "barrier naive"),
                Query(f"max by (site) ({of(m.BARRIER, 'stage=aligned')})", "aligned"),
                Query(f"max by (site) ({of(m.SITE_ACCURACY, 'held_out=home')})", "at home"),
                Query(f"max by (site) ({of(m.SITE_ACCURACY, 'held_out=union')})", "on the union"),
                Query(f"max by (site) ({of(m.SITE_ALONE)})", "alone"),
            ),
            "table",
            24,
            key="site",
            units=(
                ("is there", "bool_yes_no"),
                ("share", "percentunit"),
                ("at home", "percentunit"),
                ("on the union", "percentunit"),
                ("alone", "percentunit"),
            ),
        ),
    ),
)
ABOUT = Section(
    "What is being run",
    (
        Panel(
            "Settings of the run",
            "The run that is shown of the federation. Its report has all settings, /health its name.",
            "none",
            one(m.RUN, "{{model}} on {{data}}, aligned at {{align_at}}, head {{head}}, privacy {{privacy}}"),
            "stat",
            14,
            4,
            names_only=True,
        ),
        Panel(
            "Exporter's version",
            "Versions of fedrebasin and Python.",
            "none",
            one(m.BUILD, "{{version}}, Python {{python}}"),
            "stat",
            4,
            4,
            names_only=True,
        ),
        Panel(
            "Exporter's reading",
            "Lines of the run store that are no records, and bytes yet to be read. Both should be 0.",
            "none",
            (*one(m.UNREADABLE, "lines unreadable"), *one(m.UNREAD, "bytes unread")),
            "stat",
            6,
            4,
            SOME_ARE_BAD,
        ),
    ),
)
BOARD = Board(
    "fedrebasin-federation",
    "Federation",
    "Is it up, are the sites with us, did the merge help, and what did it cost.",
    (UP, SITES, HELPED, TIME, ALIGNMENT, VARIANCE, COST, EACH_SITE, ABOUT),
)
