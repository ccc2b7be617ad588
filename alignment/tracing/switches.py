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
def in_mode(model: nn.Module, training: bool) -> Generator[None]:
    """Puts every module into ``training`` or evaluation mode, and back to the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # A module may have an `eval` or a `train` of its own, which may fail half-way.
        _ = model.train() if training else model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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
