"""A fast BLAS for MLX on Linux, whose own wheel carries netlib's reference code: one thread, no SIMD."""

import ctypes
import functools
import importlib.metadata
import logging
import os
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

DISTRIBUTION = "cmeel-openblas"
LIBRARY = "libopenblas.so.0"
FORTRAN = "libgfortran.so.5"
_SLOW = "float32 matrix products will be some 75 times slower"


@functools.cache
def load_fast_blas() -> None:
    """
    Put OpenBLAS before MLX's own BLAS. Call it before the first `import mlx.core`, which settles the matter.

    Does nothing outside Linux, where MLX uses Accelerate, and nothing the second time. Never raises: where it cannot
    be done, one warning says why and what to do.
    """
    if sys.platform != "linux" or _is_loaded():
        return
    if "mlx.core" in sys.modules:
        logger.warning("mlx.core was imported before load_fast_blas(): %s. Call it first.", _SLOW)
        return
    try:
        _load(_file(DISTRIBUTION, LIBRARY))
    except OSError as error:
        logger.warning("No fast BLAS (%s): %s. To get one: pip install %s", error, _SLOW, DISTRIBUTION)


def _is_loaded() -> bool:
    """By us, or by the user's LD_PRELOAD."""
    return hasattr(ctypes.CDLL(None), "openblas_get_config")


def _load(library: Path) -> None:
    try:
        # The first library with a symbol wins, and only those in the global scope take part.
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _lend_fortran_runtime()
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _lend_fortran_runtime() -> None:
    """
    OpenBLAS needs libgfortran, which few machines have. MLX's wheel has one under a name of its own, and the linker
    goes by the name inside the file: so load a copy, in memory, that has the usual one. Raises: OSError.
    """
    runtime = _file("mlx-cpu", "libgfortran*")
    for needed in runtime.parent.glob("libquadmath*"):
        ctypes.CDLL(str(needed))
    own_name = runtime.name.encode() + b"\0"
    usual_name = FORTRAN.encode().ljust(len(own_name), b"\0")
    with os.fdopen(os.memfd_create(FORTRAN), "wb") as copy:
        copy.write(runtime.read_bytes().replace(own_name, usual_name))
        copy.flush()
        ctypes.CDLL(f"/proc/self/fd/{copy.fileno()}")


def _file(distribution: str, pattern: str) -> Path:
    """The installed distribution's file of that name. Raises: FileNotFoundError."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"{distribution} is not installed") from None
    for file in files:
        if file.match(pattern):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{distribution} has no {pattern}")
