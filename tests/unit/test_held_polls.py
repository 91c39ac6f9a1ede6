"""Held polls: the news of a job reaches one of them, whatever becomes of the first that heard it."""

from dispatchd.hub.waiting import News, Poll, Polls

NEWS = News(workflow="ci")


async def test_news_wakes_the_poll_that_has_waited_longest_and_no_other() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with polls.hold(first), polls.hold(second):
        polls.renew(first)
        polls.renew(second)

        polls.tell(NEWS)

        assert (first.woken.is_set(), second.woken.is_set()) == (True, False)
        assert polls.renew(first) == NEWS


async def test_news_of_a_poll_that_leaves_without_a_look_goes_to_another() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with polls.hold(second):
        with polls.hold(first):
            polls.renew(first)
            polls.renew(second)
            polls.tell(NEWS)
            assert not second.woken.is_set()

        assert second.woken.is_set()
        assert second.news == NEWS


async def test_news_that_was_used_is_passed_on_to_nobody() -> None:
    polls, first, second = Polls(), Poll("m1", None), Poll("m2", None)
    with polls.hold(second):
        with polls.hold(first):
            polls.renew(first)
            polls.renew(second)
            polls.tell(NEWS)
            polls.renew(first)

        assert not second.woken.is_set()


async def test_news_goes_only_to_a_poll_that_may_have_the_job() -> None:
    polls = Polls()
    docs, other = Poll("m1", ["docs"]), Poll("m2", ["ci"])
    with polls.hold(docs), polls.hold(other):
        polls.renew(docs)
        polls.renew(other)

        polls.tell(News(workflow="ci", machine="m1"))
        assert not (docs.woken.is_set())
        assert not (other.woken.is_set())

        polls.tell(NEWS)
        assert (docs.woken.is_set(), other.woken.is_set()) == (False, True)
