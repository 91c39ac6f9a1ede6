"""Sentences of errors that name the remedy."""

import errno
import os
from pathlib import Path

import pytest

from dispatchd.errors import FolderUnusable


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "create it or give this user write access"),
        (errno.EACCES, "create it or give this user write access"),
        (errno.ENOSPC, "free space or inodes on its disk"),
        (errno.EROFS, "remount its file system for writing, or use another folder"),
    ],
)
def test_an_unusable_folder_has_a_remedy_for_its_error(
    number: int, remedy: str
) -> None:
    error = OSError(number, os.strerror(number))
    message = str(FolderUnusable(folder=Path("/srv/d"), error=error))
    assert message == f"cannot use the folder /srv/d: {os.strerror(number)}; {remedy}"
