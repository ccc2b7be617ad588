"""The template of ``report.html``. It is Python, since Flower ships no HTML files to where a ServerApp runs."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>fedrebasin: {{ summary.run }}</title>
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3, p { overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
th, td:first-child, .text { white-space: normal; }
td:first-child, td.text { overflow-wrap: anywhere; min-width: 4.5rem; }
th { vertical-align: bottom; }
.merge td { font-weight: bold; }
td .note { font-size: .85rem; line-height: 1.3; font-weight: normal; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.card { padding: .6rem 1rem; border: 1px solid var(--line); border-radius: .4rem; background: var(--soft); }
.card b { display: block; font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.charts { display: flex; flex-wrap: wrap; }
.charts svg text { fill: currentcolor !important; }
.charts svg { flex: 1 1 18rem; min-width: 0; max-width: 30rem; height: auto; }
.hash { font-family: ui-monospace, monospace; font-size: .8rem; overflow-wrap: anywhere; white-space: normal; }
.settings td:last-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings td:first-child { white-space: normal; }
figure { margin: 1rem 0; }
figcaption, .note { color: color-mix(in srgb, currentcolor 75%, transparent); }
summary { cursor: pointer; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; }
  th, td { padding: .3rem .35rem; }
  .stack tr:first-child { display: none; }
  .stack, .stack tbody, .stack tr, .stack td { display: block; }
  .stack td { border: 0; padding: .1rem 0; text-align: right; white-space: normal; }
  .stack td::after { content: ""; display: block; clear: both; }
  .stack td::before { content: attr(data-name); float: left; padding-right: 1rem; }
  .stack td:first-child { font-weight: bold; text-align: left; }
  .stack tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .cards { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
}
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ summary.run }}</h1>
{% if when %}
<p class="note">{{ when }}</p>
{% endif %}
<p>{{ sites|length }} sites trained apart, on data that stayed with each of them. Their networks were merged into one
in {{ merged|length }} of {{ rounds|length }} round{{ "" if rounds|length == 1 else "s" }}.
{% if last.merged and last.best_site %}
On the held-out samples of all sites the merged network is right in {{ "%.1f"|format(100 * last.merged.accuracy) }} % of
cases; the best site's own network, before anything was merged{{ corrected }}, was in
{{ "%.1f"|format(100 * last.best_site.accuracy) }} %.
{% elif last.merged %}
On the held-out samples of all sites the merged network is right in {{ "%.1f"|format(100 * last.merged.accuracy) }} % of
cases. How a site does alone was not measured.
{% endif %}
{% if last.merged %}
These are {{ last.merged.count }} samples that no network was trained on: one of them more or less is
{{ "%.2f"|format(100 / last.merged.count) }} % of cases.
{% endif %}
{% if best and best.merged %}
The network of round {{ best.round }} has less loss than the last: {{ best.merged.loss|score }}, and is right in
{{ "%.1f"|format(100 * best.merged.accuracy) }} % of cases; it is kept in <code>checkpoints/</code>. To take it for that
would be a choice by these samples too.
{% endif %}</p>
{% if last.merged and chosen.clauses %}
<p>The held-out samples also had a say in the merge: by their losses {{ chosen.clauses|join("; ") }}. This flatters
{{ "accuracy and loss" if chosen.answers else "the loss" }}: samples that chose nothing would judge it more fairly.
{{ "The last layer itself was solved from training samples alone." if chosen.solved }}</p>
{% endif %}
<div class="cards">
{% if summary.barrier %}
<div class="card">barrier, naive<b>{{ summary.barrier.naive|score }}</b></div>
<div class="card">barrier, aligned<b>{{ summary.barrier.aligned|score }}</b></div>
{% endif %}
{% for name, text in (("merged", "merged"), ("best_site", "best site alone"), ("sites_mean", "mean of sites alone")) %}
{% if last[name] %}
<div class="card">{{ text }}<b>{{ "%.1f"|format(100 * last[name].accuracy) }} %</b></div>
{% elif last.merged and name == "best_site" %}
<div class="card">{{ text }}<b>unknown</b></div>
{% endif %}
{% endfor %}
<div class="card">replies refused<b>{{ n_refused }}</b></div>
</div>
{% if summary.barrier %}
<p class="note">The barrier says how much worse a network on the way between two others is than these: naive, as they
came; aligned, with one's units in the other's order. Near 0 they can be averaged at no loss, if the curves below are
flat: where one end is much worse than the other (sites with different labels, or a network that nobody has trained
yet), that end is the highest point, and the number says nothing of alignment. It is that of the first merge; exactly,
{{ summary.barrier.definition }}.</p>
{% endif %}

<h2>Accuracy and loss on the union of held-out data</h2>
<table>
<tr><th>network</th><th>accuracy</th><th>loss, nats</th></tr>
{% for row in networks %}
<tr{{ ' class="merge"'|safe if row.is_merge }}><td>{{ row.name|replace(".", ".\u200b") }}
<div class="note">{{ row.sentence }}</div></td>
<td>{{ row.accuracy|score }}</td><td>{{ row.loss|score }}</td></tr>
{% endfor %}
</table>
<p class="note">{{ "The rounds in between, and what else there is to say of each" if n_between else
"What else there is to say of each round" }}: under <a href="#rounds">Rounds</a>.</p>

{% if course %}
<h2>Round by round</h2>
<div class="charts">{% for chart in course %}{{ chart|safe }}{% endfor %}</div>
{% for note in course_notes %}<p class="note">{{ note }}</p>
{% endfor %}
{% endif %}

<h2>Between the networks</h2>
{% for figure in figures %}
<figure><h3>{{ figure.title }}</h3><div class="charts">
{% for chart in figure.charts %}{{ chart|safe }}{% endfor %}</div><figcaption>{{ figure.caption }}</figcaption></figure>
{% else %}<p>No path was probed.</p>
{% endfor %}
{% if n_hidden %}<p class="note">{{ n_hidden }} more are in rounds.jsonl.</p>{% endif %}

<h2>Sites</h2>
<table class="stack">
<tr><th>site</th><th>merged</th><th>share</th><th>barrier naive</th><th>barrier aligned</th><th>accuracy at home</th>
<th>accuracy alone, on the union</th><th>received</th><th>sent</th><th class="text">refused</th></tr>
{% for site in sites %}
<tr><td>{{ site.site }}</td>
<td data-name="merged">{{ site.rounds|length }} of {{ rounds|length }}</td>
<td data-name="share">{{ "–" if site.share is none else "%.1f %%"|format(100 * site.share) }}</td>
<td data-name="barrier naive">{{ site.naive.barrier|score if site.naive else "–" }}</td>
<td data-name="barrier aligned">{{ site.aligned.barrier|score if site.aligned else "–" }}</td>
<td data-name="accuracy at home">{{ site.at_home.accuracy|score if site.at_home else "–" }}</td>
<td data-name="accuracy alone, on the union">{{ site.alone.accuracy|score if site.alone else "–" }}</td>
<td data-name="received">{{ site.received|size }}</td><td data-name="sent">{{ site.sent|size }}</td>
<td class="text" data-name="refused">
{%- for number, reason in site.refused %}round {{ number }}: {{ reason }}{{ "" if loop.last else "; " }}
{%- else %}never{% endfor %}</td></tr>
{% endfor %}
</table>
<p class="note">Merged: in how many rounds. The share is the site's weight in the last merge that it was in, where
that is a mean: another rule goes by no weights. The barrier is that of the first merge, from the reference, which has
none. Accuracy is that of the site's own network: at home, on its own held-out samples, as last measured; alone, on
those of all sites, before the first merge. Bytes are counted at the server, which received and sent them, over all
rounds. Refused: a reply to any question of that round; what the site gave before still counts.</p>

<h2>What left the sites</h2>
<p>Samples and labels are never sent as such. All that follows went to the server. Networks and sums are not anonymous
by themselves: docs/privacy.md says what each can tell.{% if budget %} Local differential privacy: {{ budget }}. What
else sites answered is in no budget.{% endif %}</p>
<table class="stack">
<tr><th>what a site may send</th><th class="text">was it sent?</th><th>bytes, all sites</th></tr>
{% for row in left %}
<tr><td>{{ row.words }}{% if row.note %}<div class="note">{{ row.note }}</div>{% endif %}</td>
<td class="text" data-name="was it sent?">{{ row.sent }}</td>
<td data-name="bytes, all sites">{{ row.n_bytes|size if row.n_bytes else "–" }}</td></tr>
{% endfor %}
</table>
<details><summary>Bytes from each site in each round</summary>
<table class="stack">
<tr><th>round</th><th>together</th><th class="text">from each site</th></tr>
{% for record in rounds %}
<tr><td>{{ record.round }}</td>
<td data-name="together">{{ record.traffic.values()|sum(attribute="received")|size }}</td>
<td class="text" data-name="from each site">
{%- for site, traffic in record.traffic.items() %}{{ site }} {{ traffic.received|size }}{{ "" if loop.last else ", " }}
{%- else %}nothing{% endfor %}</td></tr>
{% endfor %}
</table></details>
<p class="note">Counted at the server, in the replies of finished rounds. Not counted: what came too late, of a round
that was broken off what came the first time, and a site's name and numbers of samples when it joins. By kind for each
site and round: <code>traffic</code> in rounds.jsonl.</p>
{% if told_on %}
<p>Of each other's networks, by the run's settings, sites were sent:</p>
<ul>
{% for line in told_on %}<li>{{ line }}</li>
{% endfor %}
</ul>
{% endif %}

<h2 id="rounds">Rounds</h2>
<table class="stack">
<tr><th>round</th><th class="text">outcome</th><th class="text">reference</th><th class="text">merged</th>
<th class="text">refused</th><th>accuracy</th><th>loss, nats</th><th>seconds</th></tr>
{% for record in rounds %}
<tr><td data-name="round">{{ record.round }}</td><td class="text" data-name="outcome">{{ record.outcome }}
{%- for note in record.notes %}<div class="note">{{ note }}</div>{% endfor %}</td>
<td class="text" data-name="reference">{{ record.reference or "–" }}</td>
<td class="text" data-name="merged">{{ record.weights|join(", ") if record.outcome == "merged" else "–" }}</td>
<td class="text" data-name="refused">
{%- for one in record.refused %}{{ one.site }}: {{ refusal(one, record) }}{{ "" if loop.last else "; " }}
{%- else %}none{% endfor %}</td>
<td data-name="accuracy">{{ record.merged.accuracy|score if record.merged else "–" }}</td>
<td data-name="loss, nats">{{ record.merged.loss|score if record.merged else "–" }}</td>
<td data-name="seconds">{{ "%.1f"|format(record.seconds.values()|sum) }}</td></tr>
{% endfor %}
</table>

{% if decided %}
<h2>What decided the merge</h2>
<p class="note">By the loss on the held-out samples of all sites, in nats, without what was tried and with it. The guard
looks at the mean with the reference, or at that of all, without and with alignment; the search at each line from where
it stands, and takes the λ of least loss; of the last layer, ridge regression is held against logistic.</p>
{% for record, rows in decided %}
<details{{ " open" if loop.first or loop.last }}><summary>Round {{ record.round }}</summary>
<table class="stack">
<tr><th>what was tried</th><th class="text">what came of it</th><th>loss without</th><th>loss with</th></tr>
{% for row in rows %}
<tr><td>{{ row.name }}</td><td class="text" data-name="what came of it">{{ row.outcome }}</td>
<td data-name="loss without">{{ row.without|score }}</td><td data-name="loss with">{{ row.tried|score }}</td></tr>
{% endfor %}
</table></details>
{% endfor %}
{% endif %}

<h2>What went in and what came out</h2>
<p class="note">SHA-256 of safetensors files: of a site's network as it came (where the site aligns it, as aligned),
and of the merged network in <code>checkpoints/</code>. A site that sent its network as it was
trained can compare: <code>sha256sum</code> of what it keeps.</p>
{% for record in rounds if record.checkpoint_sha256 %}
<details{{ " open" if loop.last }}><summary>Round {{ record.round }}, {{ record.outcome }}</summary>
<div class="wide"><table>
{% for site, digest in record.inputs_sha256.items() %}
<tr><td>{{ site }}</td><td class="hash text">{{ digest }}</td></tr>
{% endfor %}
<tr><td><b>{{ "merged" if record.outcome == "merged" else "unchanged" }}</b></td>
<td class="hash text">{{ record.checkpoint_sha256 }}</td></tr>
</table></div></details>
{% else %}<p>This run was made by a version that kept none.</p>
{% endfor %}

<h2>Settings</h2>
<div class="wide"><table class="settings">
{% for key, value in summary.settings.items() %}
<tr><td>{{ key }}</td><td>{{ "–" if value == "" else value|lower if value is boolean else value }}</td></tr>
{% endfor %}
</table></div>
</body>
</html>
"""
