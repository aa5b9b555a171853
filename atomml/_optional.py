"""Optional dependencies: imported where they are used, with an error that names the extra."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from atomml.errors import UnsupportedError

__all__ = ["installed", "require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or say which extra of atomml installs it.

    Raises:
        UnsupportedError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"This needs the package {module!r}, which is not installed ({error}).",
            fix=f"pip install 'atomml[{extra}]'",
        ) from error


def installed(module: str) -> bool:
    """Whether ``module`` can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
