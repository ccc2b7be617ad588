"""The rehearsal: the shuffled reference over the real path, and what it would tell of a path that is not right."""

import socket
from collections.abc import Generator
from contextlib import ExitStack, suppress

import pytest
import torch

from cli.enrolment.register import read_register
from cli.enrolment.settings import SiteSettings
from cli.rehearsal import RehearsalError, output_change, recovered
from models import Architecture, build, example_inputs
from tests.deployment.federation import RUN, Deployment, deployment, fedrebasin


@pytest.fixture(scope="module")
def server() -> Generator[Deployment]:
    """A server, and no site."""
    with deployment({**RUN, "model": "resnet20", "depth": 8, "width": 4}) as made:
        made.start_server()
        yield made


@pytest.fixture
def usual_ports() -> Generator[None]:
    """Taken, as by a site that this machine runs."""
    usual = SiteSettings(data="digits")
    with ExitStack() as held:
        for port in (usual.sidecar_port, usual.runtime_port):
            # Who else listens there serves as well.
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.mark.usefixtures("usual_ports")
def test_the_shuffled_reference_comes_back_as_the_reference(server: Deployment) -> None:
    said = fedrebasin("server", "rehearse", "--runs", server.runs, "--folder", server.server.path)
    assert said["recovered"]
    assert abs(said["aligned"]) < 1e-2
    assert said["output-change"] < 1e-3
    (entry,) = read_register(server.server.register).sites
    assert entry.status == "revoked"


def test_a_change_of_the_outputs_is_told() -> None:
    architecture = Architecture("mlp", (1, 8, 8), 10, 16, 2, "")
    one, other = build(architecture, 0), build(architecture, 1)
    with pytest.raises(RehearsalError, match="changes its outputs"):
        output_change(one, other, example_inputs(architecture))


def test_a_permutation_that_did_not_come_back_is_told() -> None:
    weight = torch.arange(6.0).reshape(3, 2)
    reference = {"a.weight": weight, "a.running_mean": torch.zeros(3)}
    assert recovered(reference, {"a.weight": weight, "a.running_mean": torch.ones(3)}) == ""
    assert recovered(reference, {"a.weight": weight.flip(0), "a.running_mean": torch.zeros(3)}) == "a.weight"
