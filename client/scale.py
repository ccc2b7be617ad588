"""Whether features have the size that networks train on."""

from client.sources import Samples

# Of what is standardised, each feature has 1.
MOST_SIZE = 10.0
N_SEEN = 2000


def size_remark(samples: Samples) -> str:
    """A line where a feature's root mean square is past `MOST_SIZE`: training may diverge on it. Else nothing.

    Of `N_SEEN` samples at most, spread over all. Bytes are scaled, and tokens have no size.
    """
    if not samples.inputs.is_floating_point():
        return ""
    seen = samples.inputs[:: -(-len(samples) // N_SEEN)]
    features = seen.unsqueeze(1).flatten(1).double()
    sizes = features.square().mean(0).sqrt()
    if not len(sizes) or float(sizes.max()) <= MOST_SIZE:
        return ""
    most, least = int(sizes.argmax()), int(sizes.argmin())
    return (
        f"feature {most} has a root mean square of {sizes[most]:.3g}, feature {least} of {sizes[least]:.3g} (counted "
        "from 0), where networks train best on some 1; past that training may diverge. Standardise each: less a mean, "
        "over a deviation, the same two numbers at every site"
    )
