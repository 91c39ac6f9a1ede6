"""What a machine takes, whatever the endpoint hands out."""

import pytest

from dispatchd.agent.domain.delivery import Delivery, rejection
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.protocol.job import Job


def taken(job: Job, repositories: tuple[str, ...] | None) -> bool:
    workflow = Workflow(
        name="it",
        command=("/bin/true",),
        max_duration_s=1,
        kill_grace_s=1,
        max_retries=0,
        repositories=repositories,
    )
    found = rejection(
        Delivery(job=job, payload="null", headers="null"), {"it": workflow}, {}
    )
    if found is not None:
        assert "doesn't run for" in found.summary
        assert "'it'" in found.summary
    return found is None


@pytest.mark.parametrize(
    ("name", "repositories", "is_taken"),
    [
        ("acme/shop", None, True),
        ("", None, True),
        ("acme/shop", ("acme/shop",), True),
        ("Acme/Shop", ("acme/SHOP",), True),
        ("acme/shop", ("other/*", "acme/*"), True),
        ("acme/shop", ("*",), True),
        ("acme/shop", ("*/shop",), True),
        ("acme/shop2", ("acme/shop",), False),
        ("evil/acme", ("acme/*",), False),
        ("xacme/shop", ("acme/*",), False),
        ("acme/../evil/shop", ("acme/*",), False),
        ("acme/..", ("acme/*",), False),
        ("acme/", ("acme/*",), False),
        ("acme/shop\n", ("acme/*",), False),
        ("", ("*",), False),
        ("acme/shop", (), False),
    ],
)
def test_a_workflow_runs_for_its_repositories_alone(
    name: str, repositories: tuple[str, ...] | None, *, is_taken: bool
) -> None:
    assert taken(Job(id="j", workflow="it", repository=name), repositories) is is_taken


def test_a_cancel_job_is_taken_for_any_repository() -> None:
    cancel = Job(id="c", workflow="it", repository="other/r", command="cancel")

    assert taken(cancel, ("acme/*",))
