"""Checks of what the site is there for: its data, and one step of training on it."""

import time
from dataclasses import replace

import torch
from torch import nn

from alignment.validate import not_finite
from cli.preflight.finding import Problem, Subject
from client.app import schedule_of
from client.bench import check_lone
from client.data import class_counts
from client.own import load_checkpoint
from client.scale import size_remark
from client.site import choose_device
from client.sources import Samples
from client.training import Schedule, train
from models import Architecture, build
from models.fingerprint import fingerprint
from server.given import check_shapes
from server.live import peak_bytes

UNITS = {"m": 1e6, "g": 1e9}
MOST_CLASSES = 20
# Of the steps that tell whether autocast is slower.
TIMED_SAMPLES = 16


def architecture(subject: Subject) -> str:
    """Whether the network that is built here has the tensors of the server's."""
    got = fingerprint(build(Architecture(*subject.run.network), subject.run.seed).state_dict())
    if got != subject.membership.architecture:
        raise Problem(
            f"{subject.run.model!r} is {got[:12]} here, {subject.membership.architecture[:12]} at the server",
            "use the server's version of fedrebasin, and of the module if the network is a module:function",
        )
    return got[:12]


def data(subject: Subject) -> str:
    """Whether the samples can be read, fit the network, and are enough."""
    count = len(subject.data.train) + len(subject.data.held_out)
    if count < subject.membership.least_samples:
        raise Problem(
            f"{count} samples in {subject.settings.data!r}, least is {subject.membership.least_samples}",
            "name all of the site's data, or ask the operator for a lower least-samples",
        )
    remark = size_remark(subject.data.train)
    counts = f"{len(subject.data.train)} samples to train on, {len(subject.data.held_out)} held out"
    return "; ".join([counts, _by_class(subject), *([f"but {remark}"] if remark else [])])


def _by_class(subject: Subject) -> str:
    """How many samples each class has: the site's operator sees whether its number is what they call so."""
    both = zip(
        *(class_counts(part, subject.run.classes) for part in (subject.data.train, subject.data.held_out)), strict=True
    )
    names = subject.data.train.names or tuple(f"class {number}" for number in range(subject.run.classes))
    counts = [f"{sum(count)} {name}" for name, count in zip(names, both, strict=True)]
    return ", ".join(counts[:MOST_CLASSES]) + (" …" if len(counts) > MOST_CLASSES else "")


def checkpoint(subject: Subject) -> str:
    """Whether the trained network with which the site would join is one of the run's."""
    if subject.run.start != "checkpoint":
        return f"not needed: start is {subject.run.start!r}"
    if subject.site.checkpoint is None:
        raise Problem(
            "start is 'checkpoint', and site.toml names none",
            "set checkpoint in site.toml to your trained network, a safetensors file",
        )
    found = load_checkpoint(subject.site)
    like = build(Architecture(*subject.run.network), subject.run.seed).state_dict()
    check_shapes(f"setting 'checkpoint': {subject.site.checkpoint}", found, like)
    if broken := not_finite(found):
        raise Problem(f"tensor {broken!r} has NaN or infinite values", "name another file in site.toml")
    return f"{subject.site.checkpoint}, {len(found)} tensors"


def training(subject: Subject) -> str:
    """Whether one step of training runs, within the memory that the settings allow."""
    settings = subject.run
    model = build(Architecture(*settings.network), settings.seed)
    rows = torch.arange(min(settings.batch_size, len(subject.data.train)))
    schedule = replace(schedule_of(settings, subject.site, 1, first=True), epochs=1)
    check_lone(subject.site, subject.data.held_out, model)
    samples, device = subject.data.train.take(rows), choose_device()
    loss = train(model, samples, schedule, device)
    if loss != loss:
        raise Problem("the loss of the first step is NaN", "look for NaN or huge values among the samples")
    peak = peak_bytes()
    most = float(subject.settings.memory[:-1]) * UNITS[subject.settings.memory[-1]]
    if peak > most:
        raise Problem(
            f"the step took {peak / 1e6:.0f} MB, memory is {subject.settings.memory!r}",
            "raise memory in site.toml, or ask for a smaller batch-size",
        )
    remark = _autocast_remark(model, samples, schedule, device) if schedule.autocast else ""
    return f"loss {loss:.2f} nats, peak memory {peak / 1e6:.0f} MB of {subject.settings.memory}{remark}"


def _autocast_remark(model: nn.Module, samples: Samples, schedule: Schedule, device: torch.device) -> str:
    """That products in bfloat16 are slower here, where they are: without instructions for them, tens of times."""
    few = samples.take(torch.arange(min(TIMED_SAMPLES, len(samples))))
    seconds: list[float] = []
    for autocast in (True, False):
        began = time.perf_counter()
        train(model, few, replace(schedule, autocast=autocast), device)
        seconds.append(time.perf_counter() - began)
    with_it, without = seconds
    if with_it <= without:
        return ""
    return (
        f"; but with autocast a step takes {with_it / without:.1f} times as long as without: "
        "ask the operator for autocast = false"
    )
