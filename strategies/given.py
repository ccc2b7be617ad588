"""What a strategy is made of, looked at before anybody trains."""

from collections.abc import Collection, Mapping
from typing import cast, get_args

from alignment.errors import StateError
from alignment.spec import PermutationSpec, State
from strategies.errors import OperatorError
from strategies.matching import AlignAt
from strategies.references import GLOBAL, LARGEST, MEDOID, the_site
from strategies.rules import RULES


def check_given(spec: object, reference: object, align_at: str, rule: str) -> None:
    """Raises `TypeError` or `ValueError` for what would fail, or be taken for something else, after a round."""
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec: expected a PermutationSpec, as derive_spec(model, (example,)) gives, got {spec!r:.80}")
    if not isinstance(reference, str | Mapping):
        expected = "'global', 'largest', 'medoid', a node's name or a state dict"
        raise TypeError(f"reference: expected {expected}, got a {type(reference).__name__}")
    if not isinstance(reference, str):
        spec.check_state(cast(State, reference), "reference")
    if align_at not in get_args(AlignAt):
        raise ValueError(f"align_at: expected one of {', '.join(get_args(AlignAt))}, got {align_at!r}")
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")


def check_sent(spec: PermutationSpec, sent: State) -> None:
    """Raises `OperatorError` where the network that goes out is not the one that ``spec`` describes."""
    try:
        spec.check_state(sent, "initial_arrays")
    except StateError as error:
        raise OperatorError(
            f"{error}. Expected ArrayRecord(model.state_dict()) of the network that the spec was derived from, all of "
            f"it and under its own names; got tensors named {', '.join(list(sent)[:3])}, …. An ArrayRecord of a list "
            "of NumPy arrays has numbers for names, and what DataParallel or torch.compile wraps has a prefix"
        ) from error


def check_remembered(sent: State) -> None:
    """Raises `OperatorError` where nobody told the strategy which network went out."""
    if not sent:
        raise OperatorError(
            "aggregate_train: expected to know the network that was sent and who got it, got neither. A subclass with "
            "a configure_train of its own calls super().configure_train(…), or self.remember(arrays, names by node "
            "id, apart=server_round == 1)"
        )


def check_aligned(align_at: AlignAt, reference: str | State) -> None:
    """Raises `OperatorError` where nodes are to align to a network that they do not have."""
    if align_at != "server" and isinstance(reference, str) and reference != GLOBAL:
        raise OperatorError(
            f"align_at={align_at!r}: expected reference='global', got {reference!r}. Nodes align to the network that "
            "they are sent, and have no other: give a trained one as initial_arrays, or align_at='server'"
        )


def check_drawn(reference: str | State, asked: Collection[str], connected: Collection[str]) -> None:
    """Raises `OperatorError` where the node that is to be the reference is not among those that are ``asked``."""
    if not isinstance(reference, str) or reference in (GLOBAL, LARGEST, MEDOID):
        return
    if reference in connected and reference not in asked:
        raise OperatorError(
            f"reference {reference!r}: the node is connected, and was not drawn for round 1; drawn were: "
            f"{', '.join(sorted(asked))}. Set fraction_train=1.0, or reference='largest'"
        )
    the_site(reference, asked)


def check_unclipped(align_at: AlignAt) -> None:
    """Raises `OperatorError` where nodes clip their updates and the server would align what is left of them."""
    if align_at != "site":
        raise OperatorError(
            f"FedRebasin in Flower's differential privacy: expected align_at='site', got {align_at!r}. Nodes clip what "
            "they changed of the network that was sent, before the server could align it: it would align what clipping "
            "and noise left. Align at the nodes, with align_at='site', or do without clipping (docs/privacy.md)"
        )
