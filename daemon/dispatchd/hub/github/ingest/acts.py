"""Acts of people at GitHub that change jobs, as the audit list has them."""

from http import HTTPStatus

from dispatchd.hub.auth.audit import Change
from dispatchd.protocol.json_text import whole_characters


def change_at_github(actor: str, job_id: str, act: str) -> Change:
    """Return the change that a comment or a button has made: the call that it stands for, by a login of GitHub.

    Args:
        actor: The login.
        job_id: The job that it has changed.
        act: Last part of the call's path, such as `cancel`.
    """
    return Change(
        who=f"{whole_characters(actor)} (github)",
        method="POST",
        path=f"/jobs/{whole_characters(job_id)}/{act}",
        status=HTTPStatus.OK,
        address="GitHub",
    )
