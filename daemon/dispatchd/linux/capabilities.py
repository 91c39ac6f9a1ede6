"""Capabilities that a process of root keeps (capabilities(7), linux/capability.h)."""

import errno
from typing import Final

from dispatchd.linux.kernel import PR_CAP_AMBIENT, PR_CAPBSET_DROP, process_control

_CLEAR_ALL: Final = 4
"""PR_CAP_AMBIENT_CLEAR_ALL."""

_OF_FILES_AND_USERS: Final = frozenset(
    {
        0,  # CAP_CHOWN
        1,  # CAP_DAC_OVERRIDE
        3,  # CAP_FOWNER
        4,  # CAP_FSETID
        5,  # CAP_KILL
        6,  # CAP_SETGID
        7,  # CAP_SETUID
        10,  # CAP_NET_BIND_SERVICE
    }
)
"""Capabilities that installers and archivers need. None reaches devices, the kernel or other processes' memory."""

_LAST: Final = 63
"""Largest possible number of a capability: the kernel keeps them in 64 bits."""


def drop_capabilities() -> None:
    """Keep only root's capabilities about files and users, from the next program on. Without any, do nothing.

    Raises:
        OSError: The kernel refuses.
    """
    try:
        process_control(PR_CAP_AMBIENT, _CLEAR_ALL)
        for number in range(_LAST + 1):
            if number not in _OF_FILES_AND_USERS:
                process_control(PR_CAPBSET_DROP, number)
    except OSError as error:
        # EINVAL: that was the kernel's last one. EPERM: this process has none that could be dropped.
        if error.errno not in {errno.EINVAL, errno.EPERM}:
            raise
