"""Settings are parsed once; a mistake is told with what was expected, what was got, and the nearest key."""

import re
import tomllib
from pathlib import Path

import pytest

from models import FAMILIES
from scripts.settings import GROUPS, settings_tables
from strategies.errors import SettingsError
from strategies.settings import Settings, as_shown, parse_settings

ROOT = Path(__file__).resolve().parent.parent


def test_the_app_config_in_pyproject_says_what_the_defaults_say() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["flwr"]["app"]["config"] == Settings().model_dump(by_alias=True)


def test_the_page_of_settings_has_each_of_them_under_one_heading() -> None:
    grouped = [key for group in GROUPS for key in group.settings]
    assert sorted(grouped) == sorted(Settings().model_dump(by_alias=True))


def test_the_page_of_settings_describes_each_and_says_its_default() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (?:`(.+?)`|empty) \| (.+) \|$", settings_tables(), re.MULTILINE)
    shown = {key: as_shown(value) for key, value in Settings().model_dump(by_alias=True).items()}
    assert {key: default for key, default, _ in rows} == shown


def test_the_page_of_settings_names_every_network_that_is_shipped() -> None:
    (line,) = [line for line in settings_tables().splitlines() if line.startswith("| `model` |")]
    assert set(re.findall(r"`([a-z0-9]+)`", line)) - {"model"} == set(FAMILIES)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_the_page_of_settings_says_which_networks_do_not_take_a_norm(norm: str) -> None:
    (line,) = [line for line in settings_tables().splitlines() if line.startswith("| `norm` |")]
    (without,) = re.findall(rf"`{norm}` \(not ([^)]+)\)", line)
    assert set(re.findall(r"`(\w+)`", without)) == {name for name, each in FAMILIES.items() if norm not in each.norms}


def test_an_empty_config_gives_the_defaults() -> None:
    assert parse_settings({}) == Settings()


def test_an_unknown_key_names_its_nearest_neighbour() -> None:
    with pytest.raises(SettingsError, match="setting 'epoch': there is no such setting; the nearest is 'epochs'"):
        parse_settings({"epoch": 3})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("epochs", "three", "setting 'epochs': expected an integer, got 'three' (str)"),
        ("epochs", 2.5, "setting 'epochs': expected an integer, got 2.5 (float)"),
        ("epochs", True, "setting 'epochs': expected an integer, got True (bool)"),
        (
            "probe-points",
            1,
            "setting 'probe-points': expected 0, for no probing, or 3 or more, got 1: both ends of a path are points, "
            "and barrier and guard look at those between",
        ),
        ("rounds", 0, "setting 'rounds': expected greater than or equal to 1, got 0 (int)"),
        ("baselines", "yes", "setting 'baselines': expected true or false, got 'yes' (str)"),
        ("split", "random", "setting 'split': expected 'biased', 'disjoint', 'iid' or 'dirichlet', got 'random' (str)"),
        ("learning-rate", "fast", "setting 'learning-rate': expected a number, got 'fast' (str)"),
    ],
)
def test_a_wrong_value_names_key_expected_and_got(key: str, value: object, text: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({key: value})
    assert str(error.value) == text


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "name\n", "x" * 65])
def test_a_run_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="setting 'run'"):
        parse_settings({"run": name})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({"epoch": 3, "width": "wide"})
    assert len(str(error.value).splitlines()) == 2


def test_a_whole_number_is_welcome_where_a_number_is_asked_for() -> None:
    assert parse_settings({"learning-rate": 1}).learning_rate == 1.0


def test_settings_cannot_change_under_way() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().epochs = 7  # pyright: ignore[reportAttributeAccessIssue]
