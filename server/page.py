"""The template of ``report.html``. It is Python, since Flower ships no HTML files to where a ServerApp runs."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>fedrebasin: {{ summary.run }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.charts { display: flex; flex-wrap: wrap; }
.charts svg { flex: 1 1 18rem; min-width: 0; max-width: 30rem; height: auto; }
.settings td:last-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings td:first-child { white-space: normal; }
@media (max-width: 40rem) { body { margin: 1rem auto; } th, td { padding: .3rem .35rem; } }
figure { margin: 1rem 0; }
figcaption, .note { opacity: .75; }
.big { font-size: 1.3rem; }
</style>
</head>
<body>
<h1>{{ summary.run }}</h1>
{% if summary.barrier %}
<p class="big">Barrier {% if summary.barrier.naive is none %}not known{% else -%}
{{ "%.3f"|format(summary.barrier.naive) }}{% endif %} naive,
{{ "%.3f"|format(summary.barrier.aligned) }} aligned (nats).</p>
<p class="note">{{ summary.barrier.definition }}</p>
{% endif %}
<h2>Accuracy and loss on the union of held-out data</h2>
<div class="wide"><table>
<tr><th>network</th><th>accuracy</th><th>loss, nats</th></tr>
{% for name, accuracy in summary.accuracy.items() -%}
<tr><td>{{ name }}</td><td>{{ "%.3f"|format(accuracy) }}</td><td>{{ "%.3f"|format(summary.loss[name]) }}</td></tr>
{% endfor %}</table></div>
<h2>Between the networks</h2>
{% for figure in figures -%}
<figure><h3>{{ figure.title }}</h3><div class="charts">
{% for chart in figure.charts %}{{ chart|safe }}{% endfor %}</div><figcaption>{{ figure.caption }}</figcaption></figure>
{% else %}<p>No path was probed.</p>
{% endfor %}
<h2>Rounds</h2>
<div class="wide"><table>
<tr><th>round</th><th>outcome</th><th>reference</th><th>merged</th><th>refused</th><th>accuracy</th><th>seconds</th></tr>
{% for record in rounds -%}
<tr><td>{{ record.round }}</td><td>{{ record.outcome }}</td><td>{{ record.reference }}</td>
<td>{{ record.weights|join(", ") }}</td>
<td>{% for one in record.refused %}{{ one.site }}: {{ one.reason }} {% else %}none{% endfor %}</td>
<td>{{ "%.3f"|format(record.merged.accuracy) if record.merged else "" }}</td>
<td>{{ "%.1f"|format(record.seconds.values()|sum) }}</td></tr>
{% endfor %}</table></div>
<h2>Settings</h2>
<div class="wide"><table class="settings">
{% for key, value in summary.settings.items() -%}
<tr><td>{{ key }}</td><td>{{ "–" if value == "" else value|lower if value is boolean else value }}</td></tr>
{% endfor %}</table></div>
</body>
</html>
"""
