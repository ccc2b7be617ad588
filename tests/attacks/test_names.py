"""Names that would be a path, a line of a log or a label's end."""

import pytest
from flwr.app import ConfigRecord, Message

from server.summary import read_rounds
from strategies.protocol import DESCRIBE, DESCRIPTION
from tests.attacks.federation import attacked


@pytest.mark.parametrize("name", ["../../etc", "a/b", "two\nlines", 'quo"te', "{label}", "", "x" * 65, "site-us"])
def test_a_site_of_such_a_name_is_not_one_and_the_run_goes_on(name: str) -> None:
    def rename(reply: Message) -> None:
        reply.content[DESCRIPTION] = ConfigRecord({"name": name, "train-samples": 10})

    first, second = read_rounds(attacked(rename, DESCRIBE))
    assert set(first.weights) == {"site-us", "site-3"}
    # In the next round it says its own name, and is heard.
    assert set(second.weights) == {"site-us", "site-3", "site-eu"}


def test_a_number_of_samples_that_is_none() -> None:
    def lie(reply: Message) -> None:
        reply.content[DESCRIPTION] = ConfigRecord({"name": "site-eu", "train-samples": "many"})

    first, _ = read_rounds(attacked(lie, DESCRIBE))
    assert len(first.weights) == 3
