"""Work by several threads: order, errors, work within work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from convc import parallel
from convc.parallel import each


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "default_threads", lambda: 3)


def test_results_come_in_order_and_from_several_threads() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def work(item: int) -> int:
        if item < 3:
            meeting.wait()
        return item * item

    assert each(work, range(20)) == [i * i for i in range(20)]


def test_the_first_error_is_raised_and_what_has_not_begun_is_left() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(str(item))

    with pytest.raises(ValueError, match="^0$"):
        each(work, range(10_000))
    assert len(begun) < 10_000


def test_an_earlier_error_that_comes_later_is_raised() -> None:
    second = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            assert second.wait(10)
        else:
            second.set()
        raise ValueError(str(item))

    with pytest.raises(ValueError, match="^0$"):
        each(work, range(2))


def test_the_caller_takes_part_and_may_ask_again() -> None:
    for _ in range(3):
        assert threading.get_ident() in each(_identity_after_all_began(3), range(3))


def _identity_after_all_began(count: int) -> Callable[[int], int]:
    meeting = threading.Barrier(count, timeout=10)

    def work(_: int) -> int:
        meeting.wait()
        return threading.get_ident()

    return work


def test_work_within_work_is_done_by_the_thread_that_asks() -> None:
    def inner(_: int) -> int:
        return threading.get_ident()

    found = each(lambda _: (threading.get_ident(), set(each(inner, range(4)))), range(6))
    assert all(inside == {outside} for outside, inside in found)
