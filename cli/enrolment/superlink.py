"""The federation's SuperLink, as its operator reaches it: on the inner network, by its certificate."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import tomli_w

from cli.enrolment.layout import ServerFolder
from cli.enrolment.settings import Federation, host_of
from cli.superlink import CONNECTION, FlowerError, SuperLink, complaint, flower_environment, short_folder

Node = dict[str, str]


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
    """Has the SuperLink know a site's key under its name; returns Flower's number of the node."""
    path = link.home / "site.pub"
    path.write_bytes(public_key)
    said = link.flwr("supernode", "register", str(path), CONNECTION, "--name", name)
    if not said.get("node-id"):
        raise FlowerError(f"the SuperLink did not register {name!r}: {complaint(said)}")
    return str(said["node-id"])


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
