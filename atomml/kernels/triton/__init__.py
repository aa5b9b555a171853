"""Both families of operators on NVIDIA GPUs, written in Triton (https://triton-lang.org).

`atomml.kernels.triton.backend` holds the functions that `atomml.kernels.dispatch` calls. Tensors on a GPU run
compiled kernels; tensors on the CPU run the same kernels in Triton's interpreter, which is slow and meant for
tests. Nothing here is imported before a kernel is asked for.
"""
