"""What sites send of the networks that they were asked about, held against what it must be."""

from collections.abc import Collection, Mapping

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor

from alignment.moments import Moments, layers_of
from strategies.decoding import read_state
from strategies.errors import OverflowReply, Reason, RefusedReply

# Σx² · n is at least (Σx)², but for rounding.
ROUNDING = 1e-6
# Gram matrices are summed in fp32 where the network computes in it.
GRAM_ROUNDING = 1e-5
# One value has no variance.
FEWEST_VALUES = 2
# Of a unit, at every position of every sample: no site has more, and squares of such numbers are finite.
MOST_VALUES = 1e15
# Statistics are kept in single precision, which ends at 3e38. No network's activations are so large.
MOST_SQUARED = 1e30


def read_moments(
    shapes: Mapping[str, tuple[int, ...]], asked: Collection[str], site: str, reply: Message
) -> dict[str, Moments]:
    """The moments that a reply tells of each network ``asked`` about, of these ``shapes``.

    Raises `RefusedReply` where they are no moments of values, or are of other layers, or of other networks.
    """
    check_asked(site, reply.content.array_records.keys(), asked)
    found: dict[str, Moments] = {}
    for network, record in reply.content.array_records.items():
        headers = {name: tuple(array.shape) for name, array in record.items()}
        _check_same(Reason.MOMENTS, site, headers, shapes, "moments")
        found[network] = {name: tensor.double() for name, tensor in read_state(site, record).items()}
        check_moments(site, found[network])
    return found


def check_asked(site: str, told: Collection[str], asked: Collection[str]) -> None:
    """Raises `RefusedReply` unless a site tells of just the networks that it was asked about."""
    if odd := sorted(set(told) ^ set(asked)):
        detail = f"{odd[0]:.80}: {'not asked about' if odd[0] in told else 'missing'}"
        raise RefusedReply(Reason.MALFORMED, site, detail, "networks")


def check_headers(
    site: str, record: ArrayRecord, expected: Mapping[str, tuple[str, tuple[int, ...]]], what: str
) -> None:
    """Raises `RefusedReply` unless ``record`` claims arrays of these names, dtypes and shapes, and no others."""
    headers = {name: (array.dtype, tuple(array.shape)) for name, array in record.items()}
    _check_same(Reason.MALFORMED, site, headers, expected, what)


def _check_same(
    reason: Reason, site: str, headers: Mapping[str, object], expected: Mapping[str, object], what: str
) -> None:
    if headers != expected:
        odd = min(name for name in {*headers, *expected} if headers.get(name) != expected.get(name))
        detail = f"expected {expected.get(odd, 'none')}, got {headers.get(odd, 'none')!s:.80}"
        raise RefusedReply(reason, site, detail, f"{what} {odd:.80}")


def check_moments(site: str, moments: Moments) -> None:
    """Raises `RefusedReply` unless layers saw two values or more, `MOST_VALUES` at most, and mean squares lie between
    (mean)² and `MOST_SQUARED`.
    """
    for layer in layers_of(moments):
        count, sums, squares = (moments[f"{layer}.{part}"] for part in ("count", "sum", "squares"))
        for tensor in (count, sums, squares):
            check_finite_sums(site, tensor, f"moments of {layer}")
        if not FEWEST_VALUES <= float(count) <= MOST_VALUES:
            raise RefusedReply(Reason.MOMENTS, site, f"{float(count):g} values", f"moments of {layer}")
        if float(squares.max()) / float(count) > MOST_SQUARED:
            raise OverflowReply(Reason.MOMENTS, site, f"a mean square above {MOST_SQUARED:g}", f"moments of {layer}")
        # Of means: products of sums may be infinite, and infinity is not less than itself.
        if bool((squares / count * (1 + ROUNDING) + ROUNDING / count**2 < (sums / count).square()).any()):
            raise RefusedReply(Reason.MOMENTS, site, "a variance is negative", f"moments of {layer}")


def check_gram(site: str, gram: Tensor, what: str) -> None:
    """Raises `RefusedReply` unless ``gram``, square, could be a sum of outer products xxᵀ."""
    check_finite_sums(site, gram, what)
    if bool((gram.diagonal() < 0).any()):
        raise RefusedReply(Reason.MOMENTS, site, "a sum of squares is negative", what)
    trace = gram.diagonal().sum().item()
    if bool(((gram - gram.T).abs() > GRAM_ROUNDING * trace).any()):
        raise RefusedReply(Reason.MOMENTS, site, "expected a symmetric matrix", what)
    # Positive semidefinite, but for rounding: a decomposition exists once a little is added.
    room = torch.eye(len(gram), dtype=torch.float64) * (GRAM_ROUNDING * trace or 1.0)
    if torch.linalg.cholesky_ex(gram.double() + room).info.item():
        raise RefusedReply(Reason.MOMENTS, site, "no samples give these sums", what)


def check_finite_sums(site: str, tensor: Tensor, what: str) -> None:
    """Raises `OverflowReply` for NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        raise OverflowReply(Reason.NOT_FINITE, site, "expected finite values", what)
