"""What the metrics of several replies have in common."""

from collections.abc import Sequence

from flwr.app import MetricRecord, RecordDict


def shared_metrics(told: Sequence[RecordDict]) -> list[RecordDict]:
    """What each reply tells, with those metrics that all of them give in the same form.

    One odd metric is dropped, not the round. Records keep the names that their nodes gave them: a
    ``train_metrics_aggr_fn`` that was written for `FedAvg` looks for them.
    """
    records = [next(iter(each.metric_records.values())) for each in told]
    shared = [key for key in records[0] if len({_form(record, key) for record in records}) == 1]
    return [
        RecordDict(
            {
                name: MetricRecord({key: record[key] for key in shared}) if name in each.metric_records else other
                for name, other in each.items()
            }
        )
        for each, record in zip(told, records, strict=True)
    ]


def _form(record: MetricRecord, key: str) -> int | None:
    """The length of a list, 0 for a number, None for nothing."""
    value = record.get(key)
    return None if value is None else len(value) if isinstance(value, list) else 0
