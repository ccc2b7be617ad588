"""Normalisations and soft maxima."""

from collections.abc import Sequence

from alignment.tracing.dims import Axes, Expr, cut, fresh, is_fixed, merge, resolve, size_of
from alignment.tracing.operation import Operand, Operation, Rule, axis_number, meet_all

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def batch_norm(op: Operation) -> Sequence[Axes]:
    """Statistics, scale and shift all lie along axis 1."""
    x = op.first
    given = [operand for operand in map(op.optional, _STATISTICS) if operand is not None]
    meet_all(op, given, (x.axes[1],))
    return [x.axes, *((x.axes[1],) if shape == (x.shape[1],) else op.fixed(shape) for shape in op.shapes[1:])]


def layer_norm(op: Operation) -> Sequence[Axes]:
    """Scale and shift lie along the trailing axes that are normalised."""
    x = op.first
    kept = x.ndim - len(op.args["normalized_shape"])
    given = [operand for operand in map(op.optional, ("weight", "bias")) if operand is not None]
    meet_all(op, given, x.axes[kept:])
    op.mix(child=x.axes[:kept], parent=x.axes[kept:])
    statistics = (*x.axes[:kept], *[((),)] * (x.ndim - kept))
    return [x.axes, *[statistics] * (len(op.shapes) - 1)]


def group_norm(op: Operation) -> Sequence[Axes]:
    """Channels move within their group, and groups as wholes."""
    x, n_groups = op.operand("input"), op.args["group"]
    meet_all(op, [o for o in map(op.optional, ("weight", "bias")) if o is not None], (x.axes[1],))
    if 1 < n_groups < x.shape[1]:
        _keep_together(op, x.axes[1], x.shape[1] // n_groups)
    return [x.axes, *(op.fixed(shape) for shape in op.shapes[1:])]


def _keep_together(op: Operation, channels: Expr, per_group: int) -> None:
    """Ties the channels in runs of ``per_group``. A run across a concatenation moves within its parts alone."""
    done = 0
    for segment in resolve(channels):
        size = size_of((segment,))
        head = min(-done % per_group, size)
        whole = (size - head) // per_group * per_group
        rest = cut((segment,), head, op.why)[1]
        full, _ = cut(rest, whole, op.why)
        if whole > per_group and not is_fixed(full):
            op.unify(full, merge([fresh(whole // per_group, hint="groups"), fresh(per_group)]))
        done += size


def softmax(op: Operation) -> Sequence[Axes]:
    """Sums over one axis and keeps all."""
    x = op.first
    if x.ndim:
        along = axis_number(op.args["dim"], x.ndim)
        op.mix(child=[expr for axis, expr in enumerate(x.axes) if axis != along], parent=[x.axes[along]])
    return [x.axes]


def weight_norm(op: Operation) -> Sequence[Axes]:
    """``v * (g / ‖v‖)``, the norm over all axes but ``dim``."""
    v, g = op.operand("v"), op.operand("g")
    along: int = op.args["dim"]
    op.unify(v.axes[along], g.axes[along])
    return [v.axes, *[g.axes] * (len(op.shapes) - 1)]


def scaled_dot_product(op: Operation) -> Sequence[Axes]:
    """Attention as one operation: ``softmax(query keyᵀ + mask) value``."""
    query, key, value = (op.operand(name) for name in ("query", "key", "value"))
    op.unify(query.axes[-1], key.axes[-1])
    op.unify(key.axes[-2], value.axes[-2])
    for other in (key, value):
        for own, theirs in zip(query.axes[:-2], other.axes[:-2], strict=True):
            op.unify(own, theirs)
    mask: Operand | None = op.optional("attn_mask")
    if mask is not None:
        op.fix(mask.axes)
        op.fix(query.axes[:-1])
    out = (*query.axes[:-1], value.axes[-1])
    return [out, *(op.fixed(shape) for shape in op.shapes[1:])]


BATCH_NORMS = (
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_no_training", "_batch_norm_no_update", "_batch_norm_with_update"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
    "_softmax": softmax,
    "_safe_softmax": softmax,
    "_log_softmax": softmax,
    "_weight_norm_interface": weight_norm,
    "_scaled_dot_product_flash_attention_for_cpu": scaled_dot_product,
}
