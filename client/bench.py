"""What every answer of a site needs, built from its own node config and the run's settings."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from flwr.app import Context
from torch import nn

from client.data import SiteData, load_site_data
from client.site import Site, choose_device, read_site
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
    return Bench(site, settings, load_site_data(site, settings), model, device)
