"""Bytes to and from the sites: how many, and, of what leaves a site, of which kind."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from flwr.app import RecordDict

from strategies.leaving import kind_of
from strategies.settings import Settings


@dataclass
class Traffic:
    """Bytes of records that went to a site and came from it, without what carries them; the latter by kind too."""

    sent: int = 0
    received: int = 0
    kinds: Counter[str] = field(default_factory=Counter[str])

    def receive(self, settings: Settings, message_type: str, content: RecordDict) -> None:
        """Counts a reply to such a question."""
        for record, key, size in sizes(content):
            self.received += size
            self.kinds[kind_of(settings, message_type, record, key)] += size


def size_of(content: RecordDict) -> int:
    """The bytes of all records."""
    return sum(size for _, _, size in sizes(content))


def sizes(content: RecordDict) -> Iterator[tuple[str, str, int]]:
    """The bytes, names and values, of each entry of each record, a number 8.

    Flower's own count fails at empty texts and lists.
    """
    for name, arrays in content.array_records.items():
        yield from ((name, key, len(key) + len(array.data)) for key, array in arrays.items())
    for name, record in (*content.metric_records.items(), *content.config_records.items()):
        yield from ((name, key, len(key) + _bytes_of(value)) for key, value in record.items())


def _bytes_of(value: object) -> int:
    if isinstance(value, list):
        return sum(_bytes_of(each) for each in cast(list[object], value))
    return len(value) if isinstance(value, str | bytes) else 8
