"""The bounded queue between reader and writer."""

from __future__ import annotations

import anyio
import pytest

from retl.engine.channel import Channel, ChannelClosed


async def test_items_come_in_order_and_then_the_end() -> None:
    channel: Channel[int] = Channel(max_bytes=100, max_items=10)
    for number in range(3):
        await channel.send(number, 10)
    channel.close()
    assert [await channel.receive() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ChannelClosed):
        await channel.receive()


@pytest.mark.parametrize(("limits", "fits"), [((100, 10), 3), ((1_000_000, 2), 2)])
async def test_a_full_channel_holds_the_sender_back(limits: tuple[int, int], fits: int) -> None:
    channel: Channel[int] = Channel(max_bytes=limits[0], max_items=limits[1])
    sent: list[int] = []

    async def send() -> None:
        for number in range(6):
            await channel.send(number, 30)
            sent.append(number)
        channel.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        assert sent == list(range(fits))
        received = []
        while True:
            try:
                received.append(await channel.receive())
            except ChannelClosed:
                break
            await anyio.wait_all_tasks_blocked()
            assert len(sent) - len(received) <= fits
    assert received == list(range(6))
    assert channel.send_wait > 0
    assert channel.peak_bytes <= limits[0]


async def test_an_item_larger_than_the_channel_passes_alone() -> None:
    channel: Channel[str] = Channel(max_bytes=10, max_items=10)
    with anyio.fail_after(5):
        await channel.send("large", 1000)
        assert await channel.receive() == "large"


async def test_an_error_of_the_sender_comes_after_its_items() -> None:
    channel: Channel[int] = Channel(max_bytes=100, max_items=10)
    await channel.send(1)
    channel.close(ValueError("the source is gone"))
    assert await channel.receive() == 1
    with pytest.raises(ValueError, match="the source is gone"):
        await channel.receive()


async def test_a_waiting_receiver_is_counted_and_woken() -> None:
    channel: Channel[int] = Channel(max_bytes=100, max_items=10)
    got: list[int] = []

    async def receive() -> None:
        got.append(await channel.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await channel.send(7)
    assert got == [7]
    assert channel.receive_wait > 0


async def test_a_cancelled_sender_sends_nothing() -> None:
    channel: Channel[int] = Channel(max_bytes=10, max_items=1)
    await channel.send(1)
    with anyio.move_on_after(0.01) as scope:
        await channel.send(2)
    assert scope.cancelled_caught
    channel.close()
    assert await channel.receive() == 1
    with pytest.raises(ChannelClosed):
        await channel.receive()
