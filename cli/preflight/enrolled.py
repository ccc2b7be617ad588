"""Whether the SuperLink knows the site's key."""

import httpx

# Nothing that Flower exports asks the fleet API a question that has no effect: here, about a run that there is none of.
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from cli.direct import dialled_directly
from cli.enrolment.keys import fingerprint, read_private
from cli.enrolment.settings import host_of
from cli.preflight.finding import Problem, Subject
from cli.preflight.network import identity


def enrolled(subject: Subject) -> str:
    """Whether a question signed with the site's key is answered, whatever the answer."""
    key = read_private(subject.folder.key)
    question = GetRunRequest(node=Node(node_id=int(subject.membership.node_id)), run_id=1)
    signed = [NodeAuthHttpInterceptor(key, key.public_key())]
    mark = fingerprint(key.public_key())
    try:
        # As the sidecar, which knows no proxy of the environment's.
        with (
            dialled_directly(host_of(subject.membership.proxy)),
            FleetHttpClient(
                f"https://{subject.membership.proxy}", interceptors=signed, verify=identity(subject)
            ) as client,
        ):
            client.GetRun(question)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 401:
            raise Problem(
                f"the SuperLink does not know the key {mark}",
                "compare it with `fedrebasin server list`; set the clock; a revoked site asks anew with another key",
            ) from error
        if error.response.headers.get("server") == "nginx" and _is_page(error.response):
            raise Problem(f"the proxy answers {error.response.status_code}", "see 'proxy reachable'") from error
    except httpx.TransportError as error:
        raise Problem(f"{subject.membership.proxy}: {error}", "see 'proxy reachable'") from error
    return mark


def _is_page(response: httpx.Response) -> bool:
    """Whether it is a page of nginx's own; the SuperLink answers in JSON."""
    return response.headers.get("content-type", "").startswith("text/html")
