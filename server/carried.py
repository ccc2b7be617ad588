"""What of a network messages hold: tensors of the dtypes that NumPy has too. Anything else no site could send."""

import torch
from torch import Tensor, nn

from strategies.decoding import TORCH
from strategies.errors import SettingsError


def check_carried(model: nn.Module) -> None:
    """Raises `SettingsError` where a state of ``model`` holds what messages do not: before anybody trains."""
    for name, value in model.state_dict().items():
        if what := _not_carried(value):
            raise SettingsError(
                f"setting 'model': {name!r} is {what}, which messages between server and sites do not carry; expected "
                f"dense tensors of {', '.join(TORCH)}. Keep it in one of these (torch.view_as_real of complex numbers; "
                "autocast = true trains with products in bfloat16), or out of the network's state."
            )


def _not_carried(value: object) -> str:
    """What there is against ``value``; empty where there is nothing."""
    if not isinstance(value, Tensor):
        return f"no tensor but {type(value).__name__}"
    if value.layout != torch.strided:
        return f"of layout {str(value.layout).removeprefix('torch.')}"
    return "" if value.dtype in TORCH.values() else str(value.dtype).removeprefix("torch.")
