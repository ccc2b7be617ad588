"""What local differential privacy costs a run: the noise beside the update, and the budget of all rounds together."""

from math import ceil, log, sqrt

from strategies.settings import Settings

# Noise of so many times the greatest norm of an update leaves next to nothing of it.
DROWNED = 10.0


def noise_deviation(settings: Settings) -> float:
    """The deviation of the noise on each entry of one site's update, which is Flower's.

    2C · √(2 ln(1.25 / δ)) / ε: Dwork and Roth 2014, theorem A.1, of two updates that lie at most 2C apart.
    """
    return 2 * settings.clipping_norm * sqrt(2 * log(1.25 / settings.dp_delta)) / settings.dp_epsilon


def drowned(settings: Settings, n_parameters: int) -> list[str]:
    """A line where the mean of ``min-sites`` equal sites is nearly all noise; √n_parameters · deviation is its norm."""
    if settings.privacy != "local-dp":
        return []
    each = noise_deviation(settings) / sqrt(settings.min_sites)
    times = each * sqrt(n_parameters) / settings.clipping_norm
    if times <= DROWNED:
        return []
    return [
        f"setting 'privacy' = 'local-dp': the mean of {settings.min_sites} sites has noise of deviation {each:.3g} on "
        f"each of {n_parameters:,} parameters, together {times:,.0f} times the norm that an update has at most "
        f"(clipping-norm = {settings.clipping_norm:g}): what a round changes is nearly all noise. It takes some "
        f"{ceil(settings.min_sites * times**2):,} sites for noise of that norm; else take a smaller network, or "
        "privacy = 'secure-aggregation'"
    ]


def budget(settings: Settings, n_rounds: int) -> str:
    """What so many rounds give away together, by plain composition; empty where there is no budget."""
    if settings.privacy != "local-dp":
        return ""
    epsilon, delta = n_rounds * settings.dp_epsilon, n_rounds * settings.dp_delta
    rounds = "1 round is" if n_rounds == 1 else f"{n_rounds} rounds together are"
    return f"{rounds} (ε, δ) = ({epsilon:.3g}, {delta:.3g}) private for a site's updates, by plain composition"
