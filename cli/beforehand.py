"""What would end a simulated run, found before Flower starts it: its sites and its server are this machine."""

from pathlib import Path

from cli.output import warn
from client.bench import check_lone
from client.data import fitting, share_of
from client.scale import size_remark
from client.site import Site, simulated_name
from client.sources import DataError, Samples, read_samples
from models import Architecture, build
from server.given import first_reference, first_state
from strategies.settings import Settings


def from_here(settings: Settings) -> dict[str, object]:
    """The settings that are paths as seen from this folder, made such as are seen from any: Flower runs in its own."""
    return {key: str(Path(path).resolve()) for key, path in settings.paths.items()}


def check_files(settings: Settings) -> None:
    """Raises `CheckpointError` for a network that a setting names and that cannot be read, or is another's."""
    if settings.initial or settings.reference_is_file:
        like = build(Architecture(*settings.network), settings.seed).state_dict()
        first_state(settings, like)
        first_reference(settings, like)


def check_data(settings: Settings, n_sites: int, samples: Samples | None = None) -> None:
    """Raises `DataError` for data that cannot be read, does not fit, or is too little for ``min-sites`` of the sites.

    Too little is also one held-out sample, where the network answers none alone. Features that training may diverge on
    are told.

    ``samples`` are the data, where it has been read.
    """
    read = read_samples(settings.data) if samples is None else samples
    fit = fitting(read, settings.data, settings)
    if remark := size_remark(fit):
        warn(f"data {settings.data!r}: {remark}")
    model = build(Architecture(*settings.network), settings.seed)
    errors: list[DataError] = []
    for number in range(n_sites):
        site = Site(simulated_name(number), Path(), settings.data, number, n_sites)
        try:
            check_lone(site, share_of(fit, site, settings).held_out, model)
        except DataError as error:
            errors.append(error)
    if n_sites - len(errors) < settings.min_sites:
        raise errors[0]
