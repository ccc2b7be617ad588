"""What the metrics of several replies have in common."""

from collections.abc import Sequence

from flwr.app import MetricRecord, RecordDict


def shared_metrics(records: Sequence[MetricRecord]) -> list[RecordDict]:
    """For each reply, the metrics that all of them give in the same form; one odd metric is dropped, not the round."""
    shared = [key for key in records[0] if len({_form(record, key) for record in records}) == 1]
    return [RecordDict({"metrics": MetricRecord({key: record[key] for key in shared})}) for record in records]


def _form(record: MetricRecord, key: str) -> int | None:
    """The length of a list, 0 for a number, None for nothing."""
    value = record.get(key)
    return None if value is None else len(value) if isinstance(value, list) else 0
