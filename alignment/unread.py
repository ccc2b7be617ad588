"""Tensors that the traced run passed over: nothing tells what they would have to move with."""

from alignment.spec import PermutationSpec

UNREAD = "it has no say in the outputs of the traced run"


def unread(spec: PermutationSpec) -> tuple[str, ...]:
    """The weights of two axes or more that stay since nothing read them, where anything moves.

    Such as a head of several: what feeds it may move, and it would stay behind. What that is cannot be told from it, as
    any group of its size may be. Buffers, and what training alone reads, are none: with the latter, its sources stay.
    """
    if not spec.groups:
        return ()
    found = dict.fromkeys(tensor for (tensor, _), why in spec.fixed.items() if why == UNREAD)
    return tuple(tensor for tensor in found if len(spec.axes[tensor]) > 1 and tensor not in spec.buffers)
