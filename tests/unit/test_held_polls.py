"""Held polls: the news of a job goes from one to the next until the job is taken, whatever becomes of who heard it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import anyio
from attrs import define, field

from dispatchd.hub.domain.binding import Binding
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.events import ANYTHING, News
from dispatchd.hub.waiters import Poll, Polls, Watched, Watchers
from support.clock import pass_ticks
from support.until import until

NEWS = News(job_id="j", workflow="ci")


@contextmanager
def held(polls: Polls, *those: Poll) -> Iterator[None]:
    """Hold polls that have looked and wait."""
    with ExitStack() as stack:
        for poll in those:
            stack.enter_context(polls.hold(poll))
            polls.renew(poll)
        yield


async def test_a_bound_poll_is_woken_for_its_repositories_alone() -> None:
    acme = Binding(repositories=("acme/*",))
    polls, bound, free = Polls(), Poll("m1", None, acme), Poll("m2", None)
    with held(polls, bound, free):
        polls.wake(News(job_id="j", workflow="ci", repository="other/r"))
        woken = (bound.woken.is_set(), free.woken.is_set())
    with held(polls, bound, free):
        polls.wake(News(job_id="j", workflow="ci", repository="Acme/r"))

        assert woken == (False, True)
        assert (bound.woken.is_set(), free.woken.is_set()) == (True, False)


async def test_news_of_an_unknown_repository_wakes_those_who_may_want_it_and_one_more() -> (
    None
):
    acme = Binding(repositories=("acme/*",))
    docs = Binding(workflows=("docs",))
    polls, bound, other = Polls(), Poll("m1", None, acme), Poll("m2", None, docs)
    free, spare = Poll("m3", None), Poll("m4", None)
    with held(polls, bound, other, free, spare):
        polls.wake(News.read(NEWS.text("there"))[1])

        woken = [each.woken.is_set() for each in (bound, other, free, spare)]
        assert woken == [True, False, True, False]


async def test_news_wakes_the_poll_that_has_waited_longest_and_no_other() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with held(polls, first, second):
        polls.wake(NEWS)

        assert (first.woken.is_set(), second.woken.is_set()) == (True, False)
        assert polls.renew(first) == [NEWS]


async def test_news_of_a_poll_that_leaves_without_a_look_goes_to_another() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with held(polls, second):
        with held(polls, first):
            polls.renew(second)
            polls.wake(NEWS)
            assert (first.woken.is_set(), second.woken.is_set()) == (False, True)
            polls.wake(NEWS)
            polls.renew(second)

        assert second.news == [NEWS]


async def test_news_that_a_poll_has_kept_goes_to_another_when_it_leaves() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with held(polls, second):
        with held(polls, first):
            polls.keep(first, [NEWS])
            assert not second.woken.is_set()

        assert second.woken.is_set()
        assert second.news == [NEWS]


async def test_news_that_was_used_is_passed_on_to_nobody() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with held(polls, first):
        polls.wake(NEWS)
        polls.renew(first)
        with held(polls, second):
            pass

    assert not second.woken.is_set()


async def test_news_goes_only_to_a_poll_that_may_have_the_job() -> None:
    polls = Polls()
    docs, other = Poll("m1", ["docs"]), Poll("m2", ["ci"])
    with held(polls, docs, other):
        polls.wake(News(job_id="j", workflow="ci", machine="m1"))
        polls.wake(News(job_id="j", is_queued=False, workflow="ci"))
        assert not docs.woken.is_set()
        assert not other.woken.is_set()

        polls.wake(NEWS)
        assert (docs.woken.is_set(), other.woken.is_set()) == (False, True)


async def test_only_the_newest_poll_of_a_machine_is_told() -> None:
    polls, dead, living = Polls(), Poll("m1", None), Poll("m1", None)
    with held(polls, dead, living):
        polls.wake(NEWS)

        assert (dead.woken.is_set(), living.woken.is_set()) == (False, True)


async def test_a_poll_for_cancel_jobs_stands_beside_the_one_for_jobs() -> None:
    polls, jobs, cancels = Polls(), Poll("m1", ["ci"]), Poll("m1", [])
    with held(polls, cancels), held(polls, jobs):
        polls.wake(NEWS)
        assert (jobs.woken.is_set(), cancels.woken.is_set()) == (True, False)

        polls.wake(News(job_id="stop", workflow="", machine="m1"))
        assert cancels.woken.is_set()


async def test_what_the_dead_poll_of_a_machine_was_told_goes_to_its_living_one() -> (
    None
):
    polls, dead, other = Polls(), Poll("m1", None), Poll("m2", ["docs"])
    with held(polls, dead, other):
        polls.wake(NEWS)
        living = Poll("m1", None)
        spare = Poll("m3", None)
        with held(polls, spare, living):
            assert dead.news == []
            assert spare.news == [NEWS]


async def look() -> int:
    return 1


async def test_a_watcher_hears_of_its_own_job_and_of_no_other() -> None:
    watchers = Watchers()
    with (
        watchers.watch("j", look) as watched,
        watchers.watch("j", look),
        watchers.watch("k", look),
    ):
        rings = watched.changed.next
        watchers.notify("k")
        assert not rings.is_set()

        watchers.notify("j")
        assert rings.is_set()

        rings = watched.changed.next
        watchers.wake_all()
        assert rings.is_set()
    watchers.notify("j")


@define
class Job:
    """What many look at; each look takes until it is let go."""

    looks: int = 0
    is_busy: bool = False
    go_on: anyio.Event = field(factory=anyio.Event)

    async def look(self) -> int:
        self.looks += 1
        found = self.looks
        await self.go_on.wait()
        if self.is_busy:
            raise StorageBusy(str(found))
        return found


async def asked_by(watched: Watched[int], count: int, job: Job) -> Counter[object]:
    """Return what looks have found that many ask for at once, and as many more during the first one."""
    found: Counter[object] = Counter()

    async def ask() -> None:
        try:
            found[await watched.look()] += 1
        except StorageBusy as error:
            found[str(error)] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(ask)
        await until(lambda: job.looks == 1)
        for _ in range(count):
            tasks.start_soon(ask)
        await pass_ticks()
        job.go_on.set()
    return found


async def test_many_who_watch_one_job_share_a_look_that_begins_after_they_ask() -> None:
    job = Job()
    with Watchers().watch("j", job.look) as watched:
        assert await asked_by(watched, 400, job) == {1: 400, 2: 400}


async def test_a_look_that_fails_has_failed_for_all_who_share_it() -> None:
    job = Job(is_busy=True)
    with Watchers().watch("j", job.look) as watched:
        assert await asked_by(watched, 400, job) == {"1": 400, "2": 400}


async def test_a_look_whose_watcher_leaves_is_made_by_the_next_one() -> None:
    job = Job()
    found: list[int] = []
    with Watchers().watch("j", job.look) as watched:

        async def ask() -> None:
            found.append(await watched.look())

        async with anyio.create_task_group() as others:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as first:
                    first.start_soon(ask)
                    others.start_soon(ask)
                    await until(lambda: job.looks == 1)
                    scope.cancel()
            job.go_on.set()

    assert found == [2]


def test_news_are_read_as_they_were_told_and_what_is_too_long_is_anything() -> None:
    assert News.read(NEWS.text("here")) == ("here", NEWS)
    assert News(job_id="j", workflow="w" * 9000).text("here") == ANYTHING


async def test_of_one_machine_few_polls_are_held_beside_the_newest() -> None:
    polls = Polls()
    some, other = [Poll("m1", None) for _ in range(9)], Poll("m2", None)
    cancels = Poll("m1", [])
    with held(polls, other, cancels, *some):
        ended = [each.is_over for each in some]

        assert ended == [True] * 4 + [False] * 5
        assert all(each.woken.is_set() == each.is_over for each in some)
        assert not (other.is_over)
        assert not (cancels.is_over)
    with held(polls, *[Poll("m1", None) for _ in range(5)]) as _:
        assert len(polls) == 5
