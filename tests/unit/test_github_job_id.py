"""The ids of jobs that events make."""

from uuid import UUID

from dispatchd.hub.github.routing.job_id import JobIds


def ids(target: str = "integration/1", delivery_id: str = "d") -> list[str]:
    made = JobIds(target=target, delivery_id=delivery_id)
    return [made.next(cause) for cause in ("ci", "ci", "lint")]


def test_the_same_event_makes_the_same_ids() -> None:
    assert ids() == ids()


def test_each_job_of_an_event_has_an_id_of_its_own() -> None:
    made = {*ids(), *ids(delivery_id="e"), *ids(target="integration/2")}

    assert len(made) == 9
    assert {UUID(each).version for each in made} == {5}
