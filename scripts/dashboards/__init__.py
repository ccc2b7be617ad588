"""The Grafana dashboards, made from the catalogue of metrics: `make pages` writes them to ``deploy/grafana``."""
