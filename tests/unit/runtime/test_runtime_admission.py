import asyncio

import pytest

from packager.errors import OverloadedError
from packager.runtime.admission import Admission


async def test_slots_then_queue_then_refusal():
    admission = Admission(slots=1, queue=1)
    first, second = admission.enter(), admission.enter()
    assert (first.running, second.running) == (True, False)
    assert (admission.running, admission.waiting) == (1, 1)
    with pytest.raises(OverloadedError, match="1 requests run and 1 wait"):
        admission.enter()


async def test_a_released_slot_goes_to_who_waits_longest():
    admission = Admission(slots=1, queue=2)
    first, second, third = admission.enter(), admission.enter(), admission.enter()
    first.release()
    await second.granted()
    assert not third.running
    assert (admission.running, admission.waiting) == (1, 1)


async def test_releasing_twice_frees_one_slot():
    admission = Admission(slots=2, queue=0)
    first, _second = admission.enter(), admission.enter()
    first.release()
    first.release()
    assert admission.running == 1


async def test_who_gives_up_waiting_leaves_the_queue():
    admission = Admission(slots=1, queue=1)
    first, second = admission.enter(), admission.enter()
    waiting = asyncio.create_task(second.granted())
    await asyncio.sleep(0)
    waiting.cancel()
    second.release()
    assert admission.waiting == 0
    first.release()
    assert admission.running == 0


async def test_who_gives_up_after_being_granted_gives_the_slot_back():
    admission = Admission(slots=1, queue=1)
    first, second = admission.enter(), admission.enter()
    first.release()
    second.release()
    assert (admission.running, admission.waiting) == (0, 0)
