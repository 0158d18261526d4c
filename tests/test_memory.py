"""Recycled memory: no two live arrays share a byte, views keep theirs, and little waits unused."""

import gc
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from minires.ops.fast import memory

KB = 2**10


@pytest.fixture
def idle(monkeypatch):
    """An own stock, so that what other tests left does not matter."""
    stock = memory.Idle()
    monkeypatch.setattr(memory, "idle", stock)
    monkeypatch.setattr(memory.Block.__del__, "__defaults__", (stock.returned.append,))
    yield stock
    gc.collect()


def numbers(kb):
    return memory.empty((kb * KB // 4,), np.float32)


def address(a):
    return a.__array_interface__["data"][0]


def test_an_array_comes_back_at_the_same_place(idle):
    a = numbers(64)
    place = address(a)
    del a
    assert address(numbers(64)) == place
    assert place % 64 == 0


def test_a_view_keeps_the_memory(idle):
    a = numbers(64)
    place, view = address(a), a[5:7]
    del a
    assert address(numbers(64)) != place
    idle.settle()
    assert idle.live == 64 * KB
    del view
    idle.settle()
    assert idle.live == 0


def test_a_block_that_waits_is_cut_up_and_made_whole_again(idle):
    large = numbers(256)
    start = address(large)
    del large
    small = [numbers(64) for _ in range(4)]
    assert sorted(map(address, small)) == [start + i * 64 * KB for i in range(4)]
    del small
    assert address(numbers(256)) == start


def test_memory_goes_back_to_the_system_before_more_is_taken(idle):
    a = numbers(1024)
    del a
    b = numbers(96 + 4)  # 1024 is no multiple of it
    assert idle.live + idle.idle <= idle.limit()
    assert idle.limit() <= 1.07 * 1024 * KB
    assert b.size == 100 * KB // 4


def test_a_garbage_collection_in_the_middle_changes_nothing(idle, monkeypatch):
    def collects(*args, **options):  # memory that only the collector finds comes back here
        gc.collect(0)
        return made(*args, **options)

    made = memory.Memory
    monkeypatch.setattr(memory, "Memory", collects)
    live = [numbers(256), numbers(512)]
    for round in range(40):
        cycle = [numbers((64, 128, 32)[round % 3])]
        cycle.append(cycle)
        live.append(numbers((128, 64, 256, 16)[round % 4]))
        del live[round % 2 : round % 3], cycle
        for i, a in enumerate(live):
            a[:] = i
        assert all((a == i).all() for i, a in enumerate(live))
        del live[6:]


@given(st.lists(st.tuples(st.sampled_from([8, 16, 24, 32, 64, 128, 100]), st.integers(0, 7))))
def test_live_arrays_never_overlap(requests):
    live = {}
    for kb, slot in requests:
        live[slot] = numbers(kb)
        live[slot][:] = slot
    for slot, a in live.items():
        assert (a == slot).all()
    spans = sorted((address(a), a.nbytes) for a in live.values())
    for (start, size), (after, _) in itertools.pairwise(spans):
        assert start + size <= after
