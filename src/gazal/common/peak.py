"""How much memory this process took at most."""

import resource
import sys


def peak_bytes(children: bool = False) -> int:
    """Return the most memory that this process held at once, in bytes; with ``children`` the most of any ended child.

    The system counts KiB on Linux and bytes on macOS (getrusage(2)).
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
