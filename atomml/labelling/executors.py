"""Where labels are computed: a Dask cluster, and what a queue is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from atomml._optional import require
from atomml.errors import ConfigError
from atomml.labelling.config import LabellerConfig

__all__ = ["dask_executor", "queue_resources"]

CONNECT = 20.0  # s to find a scheduler


@contextmanager
def dask_executor(address: str, labeller: LabellerConfig) -> Iterator[Executor]:
    """An executor of the Dask cluster whose scheduler is at ``address`` (``tcp://host:8786``).

    Each label asks for the labeller's ``resources``. A label whose worker dies is computed by another one.
    ``client.get_executor(pure=False)`` of a client of your own does as well.

    Raises:
        UnsupportedError: `distributed` is not installed.
        ConfigError: there is no scheduler, or no worker offers the resources.
    """
    distributed = require("distributed", extra="dask")
    try:
        client = distributed.Client(address, timeout=CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"There is no Dask scheduler ({error}).",
            where=address,
            fix="start one (`dask scheduler`) and workers (`dask worker ADDRESS`), and give its address",
        ) from error
    with client:
        _refuse_missing(client.scheduler_info(n_workers=-1)["workers"], labeller, address)
        yield client.get_executor(pure=False, resources=labeller.resources or None)


def _refuse_missing(workers: dict[str, Any], labeller: LabellerConfig, address: str) -> None:
    """What no worker offers would be waited for without end; workers may also come later."""
    needed = labeller.resources.items()
    offers = [worker["resources"] for worker in workers.values()]
    if offers and not any(all(offer.get(name, 0) >= value for name, value in needed) for offer in offers):
        raise ConfigError(
            "No worker of the Dask cluster offers the resources of the labeller.",
            where=f"{address}: {labeller.resources}",
            fix='start workers with them (dask worker ADDRESS --resources "DFT=1"), or remove `resources`',
        )


def queue_resources(labeller: LabellerConfig) -> dict[str, Any]:
    """The hints of a labeller as ``resource_dict`` of executorlib.

    One core per thread; memory in GB; the longest time in seconds with every attempt and a start of a minute.
    """
    hints: dict[str, Any] = {"cores": 1, "threads_per_core": labeller.threads}
    if labeller.gpus:
        hints["gpus_per_core"] = labeller.gpus
    if labeller.memory_gb is not None:
        hints["memory_max"] = labeller.memory_gb
    if labeller.timeout is not None:
        hints["run_time_max"] = round((labeller.retries + 1) * labeller.timeout) + 60
    return hints
