"""How many shards a pull holds at a time: those on their way, and those that wait for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flash_moe.store.work import Work


def held_at_peak(
    works: Iterable[Work], order: Sequence[Path], jobs: int, sizes: Mapping[Path, int]
) -> tuple[int, int]:
    """Shards that are held at the peak, and the most bytes that they take, which may be others.

    A step of packing may read several shards. While all that are held wait for another, one more
    is taken: of a checkpoint whose tensors lie anywhere, that can be all of them.

    Args:
        order: In which they are taken.
        jobs: Held at a time where none has to wait.
        sizes: Bytes of each on the disk.
    """
    place = {shard: index for index, shard in enumerate(order)}
    last = dict(place)  # of all that a shard is read with
    for work in works:
        found = [place[shard] for shard in work.shards if shard in place]
        for index in found:
            last[order[index]] = max(last[order[index]], *found)
    count = min(jobs, len(order))
    n_bytes = sum(sorted((sizes[shard] for shard in order), reverse=True)[:jobs])
    for index in range(len(order)):
        waiting = [shard for shard in order[: index + 1] if last[shard] >= index]
        count = max(count, len(waiting))
        n_bytes = max(n_bytes, sum(sizes[shard] for shard in waiting))
    return count, n_bytes
