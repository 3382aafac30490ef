import asyncio

from packager.runtime.turns import Turns


async def test_a_call_comes_after_that_many_turns():
    turns, called, turn = Turns(3), [], 0
    turns.after(lambda: called.append(turn))
    for turn in range(1, 6):  # noqa: B007 - the call reads it
        await asyncio.sleep(0)
    assert called == [3]


async def test_calls_of_several_turns_come_each_in_its_own_and_in_order():
    turns, called = Turns(2), []
    turns.after(lambda: called.append("a"))
    turns.after(lambda: called.append("b"))
    await asyncio.sleep(0)
    turns.after(lambda: called.append("c"))
    await asyncio.sleep(0)
    assert called == ["a", "b"]
    await asyncio.sleep(0)
    assert called == ["a", "b", "c"]


async def test_a_call_may_ask_for_another_one():
    turns, called = Turns(2), []
    turns.after(lambda: turns.after(lambda: called.append("later")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert called == ["later"]


async def test_a_call_that_fails_stops_no_other_turn():
    failures, called = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    turns = Turns(1)
    turns.after(lambda: 1 / 0)
    await asyncio.sleep(0)
    turns.after(lambda: called.append("next"))
    await asyncio.sleep(0)
    assert called == ["next"]
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
