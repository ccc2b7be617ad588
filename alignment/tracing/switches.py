"""Runs a network in the plainest way torch can: no fast paths, no fused kernels, evaluation mode."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_operations() -> Generator[None]:
    """Turns compiled code, fused attention, Transformer fast paths and oneDNN off, and back to what they were."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # A recorder sees nothing of what was compiled, and torch.cond compiles itself unless it is kept from it.
        with torch.compiler.set_stance("force_eager"), _without_onednn(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def evaluation(model: nn.Module) -> Generator[None]:
    """Puts every module into evaluation mode, and back to the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _without_onednn() -> Generator[None]:
    with warnings.catch_warnings():
        # Saving the flags asks for one that only other hardware has.
        warnings.simplefilter("ignore", UserWarning)
        flags = torch.backends.mkldnn.flags(enabled=False)
        flags.__enter__()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            flags.__exit__(None, None, None)
