"""What a strategy is made of, looked at before anybody trains."""

from collections.abc import Mapping
from typing import cast, get_args

from alignment.spec import PermutationSpec, State
from strategies.errors import OperatorError
from strategies.matching import AlignAt
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


def check_unclipped(align_at: AlignAt) -> None:
    """Raises `OperatorError` where nodes clip their updates and the server would align what is left of them."""
    if align_at != "site":
        raise OperatorError(
            f"FedRebasin in Flower's differential privacy: expected align_at='site', got {align_at!r}. Nodes clip what "
            "they changed of the network that was sent, before the server could align it: it would align what clipping "
            "and noise left. Align at the nodes, with align_at='site', or do without clipping (docs/privacy.md)"
        )
