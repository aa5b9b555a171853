"""Native CPU kernels: C++ without a torch ABI, compiled with the package, for float32 and float64.

The same functions as `atomml.kernels.reference`. Rows of a sum are computed by one thread in a fixed order, so
results are the same for every number of threads. The number of threads is that of torch.
"""

from atomml.kernels.cpu.cg import (
    cg_conv,
    cg_conv_backward,
    cg_conv_backward2,
    cg_conv_w,
    cg_conv_x,
    cg_conv_y,
    cg_conv_yw,
    supports,
)
from atomml.kernels.cpu.cp import conv, conv_backward, conv_backward2, conv_p, conv_q, conv_qw, conv_w, mix

__all__ = [
    "cg_conv",
    "cg_conv_backward",
    "cg_conv_backward2",
    "cg_conv_w",
    "cg_conv_x",
    "cg_conv_y",
    "cg_conv_yw",
    "conv",
    "conv_backward",
    "conv_backward2",
    "conv_p",
    "conv_q",
    "conv_qw",
    "conv_w",
    "mix",
    "supports",
]
