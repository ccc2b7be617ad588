"""What every answer of a site needs, built from its own node config and the run's settings."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from flwr.app import Context
from torch import nn

from alignment.batches import network_with, on_device_of
from client.data import SiteData, load_site_data
from client.site import Site, choose_device, read_site
from client.sources import DataError, Samples
from models import Architecture, build
from strategies.settings import Settings, parse_settings


@dataclass(frozen=True)
class Bench:
    """Who we are, what the run asks for, our samples, and the network on its device."""

    site: Site
    settings: Settings
    data: SiteData
    model: nn.Module
    device: torch.device

    def computing(self) -> AbstractContextManager[object]:
        """Where networks are called: their products are bfloat16 with ``autocast``. Sums over samples stay fp64.

        Weights that were cast once are not kept: one model is given the weights of many networks in turn.
        """
        return torch.autocast(self.device.type, torch.bfloat16, self.settings.autocast, cache_enabled=False)


def set_up(context: Context) -> Bench:
    """The site's bench; its network is at the site's own random start."""
    settings = parse_settings(context.run_config)
    site = read_site(context.node_config, settings)
    if site.threads:
        torch.set_num_threads(site.threads)
    device = choose_device()
    model = build(Architecture(*settings.network), site.seed(settings.seed, "initial weights")).to(device)
    data = load_site_data(site, settings)
    check_lone(site, data.held_out, model)
    return Bench(site, settings, data, model, device)


def check_lone(site: Site, held_out: Samples, model: nn.Module) -> None:
    """Raises `DataError` where one sample is held out, and ``model`` takes none alone: before the site has trained.

    BatchNorm that keeps no running statistics is such: one value has no variance. Of two and more no batch is of one.
    """
    if len(held_out) > 1:
        return
    network = network_with(model)
    ((inputs, _),) = held_out.batches(1, torch.device("cpu"))
    try:
        with torch.no_grad():
            network(on_device_of(network, inputs))
    except Exception as error:
        raise DataError(
            f"site {site.name!r}: one sample is held out, and the network answers none alone, as with BatchNorm that "
            f"keeps no running statistics ({error}). Give more samples, or raise the run's 'held-out', or have the "
            "network keep running statistics (track_running_stats = True)"
        ) from error
