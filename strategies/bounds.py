"""How far one reply may carry the merge: bounds on its update's norm and on its weight."""

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment.precision import is_continuous
from alignment.spec import State
from strategies.pieces import pieces

# No site trains on more samples than this.
MOST_EXAMPLES = 10**9
# No network's update is so large. Products of such tensors overflow in single precision, and no matching could be told.
MOST_NORM = 1e15
# After merges that gave no network: what each of them divides `max_ratio` by, and below what it is never lowered so.
TIGHTER, LEAST_RATIO = 4.0, 3.0
# Of two norms none is the usual one.
FEWEST_TO_COMPARE = 3


@dataclass(frozen=True)
class Bounds:
    """Bounds on replies. Norms are those of the update of all parameters together; 0: without bound.

    max_norm    the greatest norm
    max_ratio   the greatest norm, in medians of those of the round
    max_share   the greatest share of one site in the mean
    strict      whether a norm past its bound is refused, or only told
    """

    max_norm: float = 0.0
    max_ratio: float = 0.0
    max_share: float = 1.0
    strict: bool = True

    def too_far(self, norms: Mapping[str, float]) -> dict[str, str]:
        """By site, what is wrong with the norm of its update, judged together so that order of arrival never matters.

        Fewer than three norms have no usual one, and are not compared.
        """
        usual = statistics.median(norms.values()) if len(norms) >= FEWEST_TO_COMPARE else 0.0
        bounds = {
            f"the bound is {self.max_ratio:g} times the round's median, {usual:.4g}": self.max_ratio * usual,
            f"the bound is {self.max_norm:g}": self.max_norm,
        }
        return {
            site: f"norm {norm:.4g}, {words}"
            for words, bound in bounds.items()
            for site, norm in norms.items()
            if 0 < bound < norm
        }

    def tightened(self, n_lost: int) -> "Bounds":
        """These bounds after ``n_lost`` merges that gave no network: a deep one bears far less than the usual bound."""
        ratio = max(self.max_ratio / TIGHTER**n_lost, LEAST_RATIO)
        return replace(self, max_ratio=min(ratio, self.max_ratio))

    def capped(self, weights: Mapping[str, float]) -> dict[str, float]:
        """``weights``, the greatest lowered to one value so that none is more than ``max_share`` of the sum.

        Equal ones where the share does not go round.
        """
        ordered = sorted(weights.values(), reverse=True)
        for n_capped, greatest in enumerate(ordered):
            room = 1 - self.max_share * n_capped
            if room <= 0:
                break
            cap = self.max_share * sum(ordered[n_capped:]) / room
            if greatest <= cap:
                return {site: min(weight, cap) for site, weight in weights.items()}
        return dict.fromkeys(weights, min(weights.values(), default=0.0))


def update_norm(state: State, sent: State, buffers: Collection[str] = ()) -> float:
    """The norm of what all continuous tensors but ``buffers`` moved by; not finite exactly when one of all is not.

    Running variances do not count: they grow with the square of what runs, and in an
    honest network can be a thousand times all else.
    """
    squares = {name: _square(state[name], tensor) for name, tensor in sent.items() if is_continuous(tensor)}
    if not all(map(math.isfinite, squares.values())):
        return math.nan
    return math.sqrt(math.fsum(square for name, square in squares.items() if name not in buffers))


def _square(tensor: Tensor, sent: Tensor) -> float:
    """The squared norm of the difference, some numbers at a time: what fits into the cache is read once."""
    pairs = zip(pieces(tensor), pieces(sent), strict=True)
    squares = [_dot(new - old if new.dtype == torch.float32 else new.double() - old.double()) for new, old in pairs]
    total = math.fsum(squares) if all(map(math.isfinite, squares)) else math.nan
    if math.isfinite(total) or tensor.dtype != torch.float32:
        return total
    # In single precision the difference of finite values may overflow, and does not in double precision.
    return _square(tensor.double(), sent.double())


def _dot(difference: Tensor) -> float:
    return float(torch.dot(difference, difference))
