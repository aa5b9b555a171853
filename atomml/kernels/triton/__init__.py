"""Both families of operators on NVIDIA GPUs, written in Triton (https://triton-lang.org).

The functions here are what `atomml.kernels.dispatch` calls. Tensors on a GPU run compiled kernels; tensors on
the CPU run the same kernels in Triton's interpreter, which is slow and meant for tests. Importing this package
imports Triton, so it is imported only where a kernel of it is asked for.
"""

from atomml.kernels.triton.cg import cg_conv, cg_conv_w, cg_conv_x, cg_conv_y, cg_conv_yw
from atomml.kernels.triton.cp import conv, conv_p, conv_q, conv_qw, conv_w, mix

__all__ = [
    "cg_conv",
    "cg_conv_w",
    "cg_conv_x",
    "cg_conv_y",
    "cg_conv_yw",
    "conv",
    "conv_p",
    "conv_q",
    "conv_qw",
    "conv_w",
    "mix",
]
