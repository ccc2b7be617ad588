"""The page of what a round's line holds is made from the records, and leaves out no field of any."""

import re

import server.records
from scripts.records import records_tables
from server.records import Paths, Record

RECORDS = [each for each in vars(server.records).values() if isinstance(each, type) and issubclass(each, Record)]


def test_every_record_of_a_round_has_its_table() -> None:
    # `Paths` is what a measurement returns; a line holds `SitePaths`.
    held = {each.__name__ for each in RECORDS} - {Record.__name__, Paths.__name__}
    assert set(re.findall(r"^## (\w+)$", records_tables(), re.MULTILINE)) == held


def test_every_field_of_a_record_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.*) \|$", records_tables(), re.MULTILINE)
    fields = [name for each in RECORDS if each is not Paths for name in each.model_fields]
    assert sorted(name for name, said in rows if said) == sorted(fields)


def test_a_record_that_a_field_holds_is_linked() -> None:
    assert "| `guard` | object of [GuardRecord](#guardrecord)s |" in records_tables()
    assert "| `merged` | [Score](#score) or null |" in records_tables()
