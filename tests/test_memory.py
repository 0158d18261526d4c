"""Recycled memory: no two live arrays share a byte, views keep theirs, holes grow together."""

import gc
import itertools
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from minires.ops.fast import memory

KB = 2**10


SEGMENT = 1024 * KB


@pytest.fixture
def pool(monkeypatch):
    """One of its own for all sizes, so that what other tests left does not matter."""
    pool = memory.Pool(SEGMENT)
    monkeypatch.setattr(memory, "pools", (pool, pool))
    yield pool
    gc.collect()


def numbers(kb):
    return memory.empty((kb * KB // 4,), np.float32)


def address(a):
    return a.__array_interface__["data"][0]


def held(pool):
    """Bytes from the system."""
    return sum(segment.stop - segment.start for segment in pool.segments)


def test_an_array_comes_back_at_the_same_place(pool):
    a = numbers(64)
    place = address(a)
    del a
    assert address(numbers(64)) == place
    assert place % 64 == 0


def test_a_view_keeps_the_memory(pool):
    a = numbers(64)
    place, view = address(a), a[5:7]
    del a
    other = numbers(64)
    assert address(other) != place
    del view
    assert address(numbers(64)) == place


def test_what_is_not_used_is_one_hole_again_and_can_be_cut_in_other_sizes(pool):
    small = [numbers(128) for _ in range(SEGMENT // (128 * KB))]
    start = min(map(address, small))
    del small
    assert address(numbers(1024)) == start
    assert sorted(address(a) - start for a in [numbers(512), numbers(256), numbers(256)]) == [
        0,
        512 * KB,
        768 * KB,
    ]
    assert held(pool) == SEGMENT


def test_a_hole_between_arrays_is_used_by_one_that_fits(pool):
    arrays = [numbers(256) for _ in range(4)]
    place = address(arrays[1])
    del arrays[1]
    assert numbers(512) is not None
    first, second = numbers(64), numbers(192)
    assert {address(first), address(second)} == {place, place + 64 * KB}


def test_a_training_step_needs_no_memory_from_the_system_when_it_is_repeated(pool):
    def step():
        kept = [numbers(kb) for kb in (256, 256, 128, 64, 96, 100)]
        while kept:
            size = kept.pop().nbytes // KB
            gradients = numbers(size), numbers(3 * size)
            del gradients

    step()
    before = list(pool.segments)
    for _ in range(5):
        step()
    assert pool.segments == before


def test_while_segments_are_few_a_new_one_is_taken_and_lists_stay(pool):
    pool.little = 2 * SEGMENT
    a = numbers(512)
    place = address(a)
    del a
    kept = numbers(1024)
    assert held(pool) == 2 * SEGMENT
    assert address(numbers(512)) == place
    assert address(numbers(768)) == place, "as many as `little`: lists are emptied"
    assert held(pool) == 2 * SEGMENT
    del kept


def test_an_empty_segment_that_is_too_small_goes_back_before_a_larger_one_comes(pool):
    a = numbers(1024)
    del a
    b = numbers(1500)
    assert held(pool) == b.nbytes


def test_release_returns_what_nobody_uses(pool, monkeypatch):
    a, b = numbers(1024), numbers(1024)
    assert held(pool) == 2 * SEGMENT
    del a
    memory.release()
    assert held(pool) == SEGMENT
    del b
    memory.release()
    assert not pool.segments
    assert not pool.holes


def test_a_refused_segment_is_asked_for_again_as_small_as_can_be(pool, monkeypatch):
    asked = []

    class Poor(memory.Segment):
        __slots__ = ()

        def __init__(self, nbytes):
            asked.append(nbytes)
            if nbytes > 300 * KB:
                raise MemoryError
            super().__init__(nbytes)

    monkeypatch.setattr(memory, "Segment", Poor)
    numbers(256)[:] = 1
    assert asked == [SEGMENT, 256 * KB]
    with pytest.raises(MemoryError):
        numbers(512)
    assert numbers(256).size == 64 * KB


def test_a_garbage_collection_in_the_middle_changes_nothing(pool, monkeypatch):
    def collects(made):  # memory that only the collector finds comes back here
        def make(*args):
            gc.collect(0)
            return made(*args)

        return make

    monkeypatch.setattr(memory, "Memory", collects(memory.Memory))
    monkeypatch.setattr(memory, "Hole", collects(memory.Hole))
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


def test_threads_that_take_and_give_back_at_once_never_share(pool):
    wrong = []

    def work(number):
        try:
            for round in range(300):
                a, b = numbers((64, 128, 96)[round % 3]), numbers((256, 32)[number % 2])
                a[:], b[:] = number, number
                if round % 7 == 0:
                    memory.release()
                if (a != number).any() or (b != number).any():
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


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
