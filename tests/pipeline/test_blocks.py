"""Memory that is used again, and never while somebody looks at it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.blocks import Blocks


def test_a_block_is_used_again_when_nothing_looks_at_it_any_more() -> None:
    blocks = Blocks()
    array, buffer = blocks.take(4000)
    array[:] = 7
    address = buffer.address
    seen = pa.Array.from_buffers(pa.float32(), 1000, [None, buffer]).slice(10).to_numpy()
    del array, buffer
    array, other = blocks.take(4000)
    array[:] = 9
    assert other.address != address, "a view of the first is still there"
    assert (seen.view(np.uint8) == 7).all()
    del seen
    _, third = blocks.take(1000)
    assert (third.address, third.size) == (address, 1000)


def test_a_larger_block_takes_the_place_of_a_smaller_one() -> None:
    blocks = Blocks()
    held = [blocks.take(100) for _ in range(3)]
    assert len({buffer.address for _, buffer in held}) == 3
    held.clear()
    held = [blocks.take(200) for _ in range(3)]
    held.clear()
    assert [len(block) for block in blocks._free] == [200] * 3
