"""Peak memory of this process."""

import resource
from pathlib import Path


def peak_mib():
    """MiB. Linux counts that of the parent process too, unless asked in this way."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
