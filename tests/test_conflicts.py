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
        ({"reference": "medoid"}, "Set reference to the path of a safetensors file, or"),
        ({"reference": "site-eu"}, "got 'site-eu'"),
        ({"probe-points": 25}, "would be sent to all others, which measure the line to it. Set probe-points to 0"),
        ({"probe-points": 3}, "setting 'probe-points': expected 0"),
        ({"mix": "best"}, "each site's network would be sent to all others, which judge it"),
        ({"mix": "search"}, "each site's network would be sent to all others, which judge it"),
        ({"merge": "least-squares"}, "exact sums over its layers' inputs"),
        ({"head": "counts"}, "how many samples of each class they hold"),
        ({"head": "ridge"}, "exact sums over features"),
        ({"repair": True}, "setting 'repair': expected false"),
        ({"baselines": True}, "sites would see each other's networks"),
        ({"variants": True}, "sites would send their networks as they were trained, and exact sums"),
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
    start = "seed" if reference.startswith("given") else "shared"
    config = {**PRIVATE, "privacy": privacy, "reference": reference, "start": start}
    assert parse_settings(config).reference == reference


@pytest.mark.parametrize("align_at", ["site", "both"])
def test_sites_that_start_from_one_network_are_not_aligned_to_another(align_at: str) -> None:
    config = {"start": "shared", "reference": "given.safetensors"}
    with pytest.raises(
        SettingsError, match=r"'initial' may name that file\. Set reference to 'auto' or 'global', or start"
    ):
        parse_settings({**config, "align-at": align_at})
    parse_settings({**config, "align-at": "server"})


@pytest.mark.parametrize("mix", ["best", "search"])
def test_what_may_be_the_network_of_one_site_is_not_repaired(mix: str) -> None:
    with pytest.raises(SettingsError, match=f"setting 'repair': expected false with mix = '{mix}'"):
        parse_settings({"mix": mix, "repair": True})


def test_all_settings_that_do_not_go_together_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({"privacy": "clipping", "baselines": True})
    told = [line.split("'")[1] for line in str(error.value).splitlines()]
    assert told == ["align-at", "reference", "probe-points", "baselines"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"min-sites": 2}, "each site knows the other's. Set min-sites to 3 or more, or privacy to 'none'."),
        ({"min-sites": 1024}, "Set min-sites to at most 1023"),
        ({"secure-threshold": 0.5}, "Set secure-threshold to a number above 0.5 and below 1"),
        ({"secure-threshold": 0.2}, "by telling two halves different things"),
    ],
)
def test_a_sum_that_would_not_hide_its_parts_is_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({**PRIVATE, "privacy": "secure-aggregation", **change})
    assert why in str(error.value)
    parse_settings({**PRIVATE, "privacy": "clipping", **change})


@pytest.mark.parametrize("epsilon", [1.0, 1, 10.0])
def test_epsilon_ends_where_the_formula_of_the_noise_does(epsilon: float) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({**PRIVATE, "privacy": "local-dp", "dp-epsilon": epsilon})
    told = str(error.value)
    assert (
        f"setting 'dp-epsilon': expected a number above 0 and below 1 with privacy = 'local-dp', got {epsilon}" in told
    )
    assert "Gaussian mechanism below 1 alone" in told
    assert "Set dp-epsilon to a number above 0 and below 1, or privacy to 'none'." in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"dp-epsilon": 0.0},
        {"dp-epsilon": float("nan")},
        {"dp-delta": 1.0},
        {"dp-delta": 0.0},
        {"clipping-norm": 0.0},
        {"clipping-norm": float("inf")},
        {"clipping-norm": float("nan")},
    ],
)
def test_a_budget_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"setting '{next(iter(wrong))}'"):
        parse_settings({**PRIVATE, "privacy": "local-dp", **wrong})


def test_the_sensitivity_cannot_be_set_to_what_it_is_not() -> None:
    with pytest.raises(SettingsError, match="setting 'dp-sensitivity': there is no such setting"):
        parse_settings({**PRIVATE, "privacy": "local-dp", "dp-sensitivity": 0.001})


def test_a_value_that_is_wrong_by_itself_is_told_first() -> None:
    with pytest.raises(SettingsError, match="setting 'epochs'") as error:
        parse_settings({"privacy": "clipping", "epochs": "three"})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum"])
def test_of_a_sum_no_outlier_is_told(rule: str) -> None:
    config = {**PRIVATE, "rule": rule, "min-sites": 5}
    parse_settings({**config, "privacy": "local-dp"})
    with pytest.raises(SettingsError, match="of a sum alone nobody can tell the outlier"):
        parse_settings({**config, "privacy": "secure-aggregation"})
