"""What training on everybody's data would give: the bound that a federation cannot pass, in a simulation only."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from client.answers import judge, outputs
from client.app import schedule_of, shift_of
from client.data import SiteData, load_site_data
from client.site import Site, simulated_name
from client.sources import Samples
from client.training import Objective, train
from models import Architecture, build
from server.records import Score
from strategies.settings import Settings


def train_pooled(settings: Settings, n_sites: int) -> Score:
    """The score, on the union of held-out samples, of the network of `pooled_network`."""
    parts = parts_of(settings, n_sites)
    return _score(pooled_network(settings, parts), union([part.held_out for part in parts]))


def parts_of(settings: Settings, n_sites: int) -> list[SiteData]:
    """What each site of a simulation holds."""
    sites = [Site(simulated_name(i), Path(), settings.data, i, n_sites) for i in range(n_sites)]
    return [load_site_data(site, settings) for site in sites]


def pooled_network(settings: Settings, parts: Sequence[SiteData]) -> nn.Module:
    """A network trained on the union of the training samples of ``parts``."""
    torch.set_num_threads(1)
    model = build(Architecture(*settings.network), settings.seed)
    everyone = Site("pooled", Path(), settings.data)
    schedule = schedule_of(settings, everyone, 1, first=True)
    samples = union([part.train for part in parts])
    train(model, samples, schedule, torch.device("cpu"), Objective(shift_of(settings, samples)))
    return model


def _score(model: nn.Module, samples: Samples) -> Score:
    return Score.of(judge(outputs(model, model.state_dict(), samples), samples.targets))


def union(parts: Sequence[Samples]) -> Samples:
    """The samples of all ``parts``, one part after another."""
    return Samples(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
