"""Build of the CPU kernels: the same sources once for each instruction set, loaded at run time with ctypes.

The extension is optional: without a C++ compiler the package installs and computes with plain torch.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("atomml/kernels/cpu/src")
SOURCES = sorted(str(path) for path in FOLDER.glob("*.cpp"))
HEADERS = sorted(str(path) for pattern in ("*.h", "*.hpp") for path in FOLDER.glob(pattern))
COMMON = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-Wno-uninitialized",  # GCC's own headers
    "-Wno-maybe-uninitialized",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-pthread",
]
VARIANTS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma"]
    VARIANTS["avx512"] = [
        "-mavx512f",
        "-mavx512dq",
        "-mavx512bw",
        "-mavx512vl",
        "-mfma",
        "-mprefer-vector-width=512",
    ]


class PlainLibraries(build_ext):
    """Builds shared libraries with a C interface: not Python modules, so no symbol is exported for Python."""

    def finalize_options(self) -> None:
        """Variants are compiled side by side."""
        super().finalize_options()
        self.parallel = self.parallel or True

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Nothing beyond what the sources export."""
        return list(ext.export_symbols)


setup(
    ext_modules=[
        Extension(
            f"atomml.kernels.cpu._{name}",
            SOURCES,
            depends=HEADERS,
            language="c++",
            extra_compile_args=[*COMMON, *flags],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
        for name, flags in VARIANTS.items()
    ],
    cmdclass={"build_ext": PlainLibraries},
)
