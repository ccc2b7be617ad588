"""The network that all sites of a round are aligned to."""

from collections.abc import Callable, Collection, Mapping
from math import fsum

from alignment.matching import Matching
from alignment.precision import is_continuous
from alignment.spec import PermutationSpec, State
from strategies.admission import Admitted
from strategies.errors import OperatorError

LARGEST, MEDOID, GLOBAL = "largest", "medoid", "global"


def largest_first(weights: Mapping[str, float]) -> list[str]:
    """The sites by weight; on ties by name."""
    return sorted(weights, key=lambda site: (-weights[site], site))


def nearest_first(
    spec: PermutationSpec, admitted: Mapping[str, Admitted], match: Callable[[State, Admitted], Matching]
) -> list[str]:
    """The sites by how near their networks lie to all others, each aligned to them; the first is the medoid.

    Nearest in Σ_j w_j ‖θ_i − P(θ_j)‖² = Σ_j w_j (‖θ_i‖² + ‖θ_j‖² − 2 ⟨θ_i, P(θ_j)⟩). Of two networks each is as near
    to the other, so that n sites cost n(n − 1)/2 matchings. Of two sites it is the one that weighs more.
    """
    sites = sorted(admitted)
    norms = {site: _squared_norm(spec, admitted[site].state) for site in sites}
    apart = dict.fromkeys(sites, 0.0)
    for number, one in enumerate(sites):
        for other in sites[number + 1 :]:
            found = match(admitted[one].state, admitted[other])
            distance = norms[one] + norms[other] - 2 * found.objective
            apart[one] += admitted[other].weight * distance
            apart[other] += admitted[one].weight * distance
    return sorted(sites, key=lambda site: (apart[site], site))


def the_site(reference: str, there: Collection[str]) -> str:
    """``reference``, if it is one of the sites that are ``there``; raises `OperatorError` if it is none."""
    if reference not in there:
        raise OperatorError(
            f"reference {reference!r}: there is no site of that name; there are: {', '.join(sorted(there))}. "
            "Set reference to one of these, to 'largest', 'medoid' or 'global'."
        )
    return reference


def _squared_norm(spec: PermutationSpec, state: State) -> float:
    counted = (name for name in spec.axes if name not in spec.buffers and is_continuous(state[name]))
    return fsum(state[name].double().square().sum().item() for name in counted)
