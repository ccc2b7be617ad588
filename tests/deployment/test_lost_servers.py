"""What becomes of runs when SuperLink or proxy is killed."""

import pytest

from tests.deployment.federation import RUN_SECONDS, SHORT, Deployment, finish
from tests.waiting import wait_until

pytestmark = pytest.mark.long


def test_the_run_survives_kill_9_of_the_superlink_and_of_the_proxy(federation: Deployment) -> None:
    """One in the first round, the other in the second."""
    before = messages_to_train(federation)
    run = federation.run("killed", rounds=3, **SHORT, **{"min-sites": 2})
    for service in ("superlink", "proxy"):
        # A message whose way a kill cuts off is lost to its site: Flower hands each over once.
        received = before
        wait_until(
            lambda received=received: all(map(int.__gt__, messages_to_train(federation), received)),
            RUN_SECONDS,
            lambda: f"both sites train\n{federation.logs()}",
        )
        before = messages_to_train(federation)
        federation.services[service].kill()
        federation.start(service)
    rounds = finish(federation, run, "killed")
    assert [sorted(record.weights) for record in rounds] == [["site-eu", "site-us"]] * 3


def messages_to_train(made: Deployment) -> list[int]:
    """How many messages to train each of the two sites has wholly received."""
    logs = [made.services[name].log.read_text(errors="replace") for name in ("site-us", "site-eu")]
    return [sum("Received successfully" in each for each in log.split("Receiving: train message")[1:]) for log in logs]
