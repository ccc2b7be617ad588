"""With privacy, settings that would let out beside it what it covers are refused, each with what to set instead."""

import pytest

from strategies.errors import SettingsError
from strategies.settings import parse_settings

KINDS = ("clipping", "local-dp", "secure-aggregation")
PRIVATE: dict[str, object] = {"align-at": "site", "start": "shared", "probe-points": 0, "min-sites": 3}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"align-at": "server"}, "would align noise. Set align-at to 'site', or privacy to 'none'."),
        ({"align-at": "both"}, "expected 'site' with privacy = "),
        ({"align-at": "none"}, "setting 'align-at'"),
        ({"start": "seed"}, "one site would send its network as it is, for the others to align to"),
        ({"reference": "medoid"}, "Set reference to 'global', or the path of a safetensors file"),
        ({"reference": "site-eu"}, "got 'site-eu'"),
        ({"probe-points": 25}, "would be sent to all others, which measure the line to it. Set probe-points to 0"),
        ({"probe-points": 1}, "setting 'probe-points': expected 0"),
        ({"mix": "search"}, "a search sends each site's network to all others"),
        ({"merge": "least-squares"}, "exact sums over its layers' inputs"),
        ({"head": "counts"}, "how many samples of each class they hold"),
        ({"head": "ridge"}, "exact sums over features"),
        ({"repair": True}, "setting 'repair': expected false"),
        ({"baselines": True}, "sites would see each other's networks"),
        ({"variants": True}, "sites would see each other's networks"),
    ],
)
@pytest.mark.parametrize("privacy", KINDS)
def test_what_would_let_out_what_privacy_covers_is_refused(privacy: str, change: dict[str, object], why: str) -> None:
    parse_settings({**PRIVATE, "privacy": privacy})
    with pytest.raises(SettingsError, match=f"with privacy = '{privacy}'") as error:
        parse_settings({**PRIVATE, "privacy": privacy, **change})
    assert why in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    parse_settings({**PRIVATE, "privacy": "none", **change})


@pytest.mark.parametrize("reference", ["auto", "global", "given/network", "given.safetensors"])
@pytest.mark.parametrize("privacy", KINDS)
def test_privacy_takes_a_reference_that_is_known_before_the_sites_train(privacy: str, reference: str) -> None:
    assert parse_settings({**PRIVATE, "privacy": privacy, "reference": reference}).reference == reference


def test_all_settings_that_do_not_go_together_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({"privacy": "clipping", "baselines": True})
    told = [line.split("'")[1] for line in str(error.value).splitlines()]
    assert told == ["align-at", "reference", "probe-points", "baselines"]


def test_a_value_that_is_wrong_by_itself_is_told_first() -> None:
    with pytest.raises(SettingsError, match="setting 'epochs'") as error:
        parse_settings({"privacy": "clipping", "epochs": "three"})
    assert len(str(error.value).splitlines()) == 1
