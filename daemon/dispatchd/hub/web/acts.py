"""Acts of the audit list in words, by method and path of their calls."""

import re
from typing import Final
from urllib.parse import unquote_plus

from dispatchd.hub.auth.audit import Change

_QUERY: Final = re.compile(r"(/jobs)(/[a-z]+)\?id=(.*)")
"""Path of the page about a job whose id is in the query."""

_ACTS: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"POST (?:/api/v1)?/jobs/(.+)/cancel", "Cancel job {}"),
        (r"POST (?:/api/v1)?/jobs/(.+)/requeue", "Run job {} again"),
        (r"POST /jobs/(.+)/change", "Run job {} again with changes"),
        (r"POST (?:/api/v1)?/jobs/(.+)/resolve", "Decide about parked job {}"),
        (r"POST /api/v1/jobs", "Submit a job that ends others"),
        (
            r"POST /api/v1/deliveries/(.+)/redeliver",
            "Submit the jobs of delivery {} again",
        ),
        (r"POST (?:/api/v1)?/dispatch/pause", "Pause dispatch"),
        (r"POST (?:/api/v1)?/dispatch/resume", "Resume dispatch"),
        (r"POST /api/v1/prune", "Remove old jobs and deliveries"),
        (r"POST /api/v1/tokens", "Make a token"),
        (r"POST /api/v1/tokens/(.+)/revoke", "Revoke token {}"),
        (r"POST /api/v1/machines", "Add a machine"),
        (r"POST /api/v1/machines/(.+)/bind", "Bind machine {}"),
        (r"POST /api/v1/machines/(.+)/revoke", "Revoke machine {}"),
        (r"POST /api/v1/machines/(.+)/rotate", "Give machine {} a new key"),
    )
)
"""Pattern of a method and a path -> words."""


def act(change: Change) -> str:
    """Return what a change was, in words; its call for one that has none."""
    path, in_query = change.path, _QUERY.fullmatch(change.path)
    if in_query:
        path = f"{in_query[1]}/{unquote_plus(in_query[3])}{in_query[2]}"
    call = f"{change.method} {path}"
    for pattern, words in _ACTS:
        if match := pattern.fullmatch(call):
            return words.format(*match.groups())
    return f"{change.method} {change.path}"
