"""Operations that slide over, resample or pad trailing axes: pooling, up-sampling, padding, pixel shuffle."""

from collections.abc import Sequence

from alignment.tracing.dims import Axes, cut, fresh, merge, split
from alignment.tracing.operation import Operation, Rule


def _slides_over(n_axes: int) -> Rule:
    def rule(op: Operation) -> Sequence[Axes]:
        x = op.first
        op.fix(x.axes[-n_axes:])
        return [(*x.axes[:-n_axes], *op.fixed(shape[-n_axes:])) for shape in op.shapes]

    return rule


def constant_pad(op: Operation) -> Sequence[Axes]:
    """Concatenation with a constant, whose elements may move among themselves; a negative pad cuts."""
    axes = list(op.first.axes)
    pads: Sequence[int] = op.args["pad"]
    for pair in range(len(pads) // 2):
        axis = len(axes) - 1 - pair
        before, after = pads[2 * pair], pads[2 * pair + 1]
        expr = cut(axes[axis], -before, op.why)[1] if before < 0 else axes[axis]
        if after < 0:
            expr = cut(expr, op.first.shape[axis] + min(before, 0) + after, op.why)[0]
        left = fresh(before) if before > 0 else ()
        right = fresh(after) if after > 0 else ()
        axes[axis] = (*left, *expr, *right)
    return [tuple(axes)]


def pixel_shuffle(op: Operation) -> Sequence[Axes]:
    """``(C · r · r, H, W) -> (C, H · r, W · r)``."""
    x, r = op.first, op.args["upscale_factor"]
    channels, down, right = split(x.axes[-3], (x.shape[-3] // (r * r), r, r), op.why)
    return [(*x.axes[:-3], channels, merge([x.axes[-2], down]), merge([x.axes[-1], right]))]


def pixel_unshuffle(op: Operation) -> Sequence[Axes]:
    """``(C, H · r, W · r) -> (C · r · r, H, W)``."""
    x, r = op.first, op.args["downscale_factor"]
    rows, down = split(x.axes[-2], (x.shape[-2] // r, r), op.why)
    columns, right = split(x.axes[-1], (x.shape[-1] // r, r), op.why)
    return [(*x.axes[:-3], merge([x.axes[-3], down, right]), rows, columns)]


def channel_shuffle(op: Operation) -> Sequence[Axes]:
    """``(groups · C) -> (C · groups)`` on axis 1."""
    x, groups = op.first, op.args["groups"]
    outer, inner = split(x.axes[1], (groups, x.shape[1] // groups), op.why)
    return [(x.axes[0], merge([inner, outer]), *x.axes[2:])]


def unfold_patches(op: Operation) -> Sequence[Axes]:
    """im2col: ``(N, C, H, W) -> (N, C · kernel, positions)``."""
    x = op.first
    op.fix(x.axes[-2:])
    kernel = op.fixed([op.shapes[0][-2] // x.shape[-3]])[0]
    return [(*x.axes[:-3], merge([x.axes[-3], kernel]), *op.fixed(op.shapes[0][-1:]))]


_ONE = ("upsample_nearest1d", "upsample_linear1d", "reflection_pad1d", "replication_pad1d", "avg_pool1d")
_TWO = (
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d", "avg_pool2d"),
    *("max_pool2d_with_indices", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "fractional_max_pool2d"),
)
_THREE = (
    *("upsample_nearest3d", "upsample_trilinear3d", "reflection_pad3d", "replication_pad3d", "avg_pool3d"),
    *("max_pool3d_with_indices", "_adaptive_avg_pool3d", "adaptive_max_pool3d", "fractional_max_pool3d"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ONE, _slides_over(1)),
    **dict.fromkeys(_TWO, _slides_over(2)),
    **dict.fromkeys(_THREE, _slides_over(3)),
    "constant_pad_nd": constant_pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "im2col": unfold_patches,
}
