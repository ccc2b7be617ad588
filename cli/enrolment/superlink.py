"""The federation's SuperLink, as its operator reaches it: on the inner network, by its certificate."""

import shutil
import tomllib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tomli_w
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cli.direct import dialled_directly
from cli.enrolment.keys import read_public
from cli.enrolment.layout import ServerFolder
from cli.enrolment.settings import Federation, host_of
from cli.flower import CONNECTION, FlowerError, SuperLink, complaint, flower_environment
from cli.superlink import short_folder

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo

Node = dict[str, str]
# What Flower says of a key that it knows, or knew: it forgets nodes, and never their keys.
KNOWN = "already in use"
GONE = "unregistered"


@contextmanager
def reach_superlink(folder: ServerFolder, federation: Federation) -> Generator[SuperLink]:
    """The SuperLink that ``federation`` names; `flwr` keeps its files in a folder that is gone afterwards."""
    home = short_folder()
    try:
        address = {"address": federation.superlink, "root-certificates": str((folder.path / "ca.crt").resolve())}
        config = {"superlink": {"default": CONNECTION, CONNECTION: address}}
        (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
        yield SuperLink(home, flower_environment(home, host_of(federation.superlink)))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def register_node(link: SuperLink, name: str, public_key: bytes) -> str:
    """Has the SuperLink know a site's key under its name; returns Flower's number of the node.

    A node of that key and name that is there already, of an approval that was broken off, is the site's.
    """
    path = link.home / "site.pub"
    path.write_bytes(public_key)
    said = link.flwr("supernode", "register", str(path), CONNECTION, "--name", name)
    if said.get("node-id"):
        return str(said["node-id"])
    if KNOWN in complaint(said):
        return _known_node(link, name, public_key)
    raise FlowerError(f"the SuperLink did not register {name!r}: {complaint(said)}")


def _known_node(link: SuperLink, name: str, public_key: bytes) -> str:
    """The number of the node of that key. Raises `FlowerError` where it has another name, or was forgotten."""
    key = read_public(public_key)
    (node,) = [each for each in _all_nodes(link) if load_pem_public_key(each.public_key) == key]
    if node.status != GONE and node.name == name:
        return str(node.node_id)
    how = f"was that of {node.name!r}, which it has forgotten" if node.status == GONE else f"is that of {node.name!r}"
    raise FlowerError(
        f"the SuperLink did not register {name!r}: the key {how}, and Flower takes a key once. Let the site ask anew "
        "with another: `fedrebasin site request` with another --folder"
    )


def _all_nodes(link: SuperLink) -> "Iterable[NodeInfo]":
    """All nodes that the SuperLink has had, with their keys, which `flwr supernode list` leaves out."""
    # They take a second to import, and are hardly ever needed.
    from flwr.proto.control_pb2 import ListNodesRequest
    from flwr.supercore.control.control_http_client import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    said = tomllib.loads((link.home / "config.toml").read_text(encoding="utf-8"))["superlink"][CONNECTION]
    authority = Path(said["root-certificates"]).read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    with (
        dialled_directly(host_of(said["address"])),
        ControlHttpClient.from_server_address(said["address"], False, authority, [version]) as client,
    ):
        return client.ListNodes(ListNodesRequest()).nodes_info


def unregister_node(link: SuperLink, node_id: str) -> None:
    """Has the SuperLink forget a node. Does nothing where it has forgotten it already."""
    if node_id in nodes(link):
        said = link.flwr("supernode", "unregister", node_id, CONNECTION)
        if not said.get("success"):
            raise FlowerError(f"the SuperLink did not forget node {node_id}: {complaint(said)}")


def nodes(link: SuperLink) -> dict[str, str]:
    """The status of each node, ``online``, ``offline`` or ``registered``, by Flower's number.

    Raises `FlowerError` when the SuperLink does not answer: that is not the same as no nodes.
    """
    said = link.flwr("supernode", "list", CONNECTION)
    if not said.get("success") or "nodes" not in said:
        raise FlowerError(f"the SuperLink does not tell its nodes: {complaint(said)}")
    listed = cast(list[Node], said["nodes"])
    return {node["node-id"]: node["status"] for node in listed if node["status"] != "unregistered"}
