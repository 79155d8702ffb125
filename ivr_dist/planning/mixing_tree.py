"""Mixing tree: how many of the first n slots of an epoch belong to each corpus, in whole numbers.

The quotas of a pool are the leaves of a Huffman tree. A node that owns n of its S slots gives its left child n A / S of
them, rounded to the nearest, A being the quota of that child, and the rest to the right one. Counts are exact at the
end of the epoch and need O(corpora) for any n. A corpus is ahead of or behind its exact share by at most half the sum
of the ratios of weights from its leaf to the root; weights of a Huffman tree grow like Fibonacci numbers, so the sum is
below 3.36 and the count within 1.68 slots, whatever the quotas.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

_MAX_INT64_SLOTS = 1 << 31
"""Slots of an epoch below which products of two counts fit into 64 bits."""


class MixingTree:
    """Divides the slots of an epoch among corpora.

    Args:
        quotas: Slots of each corpus by name, at least 0 each and above 0 together. Ties are broken by name, so the
            order of the mapping has no influence.
    """

    def __init__(self, quotas: Mapping[str, int]) -> None:
        self.quotas = dict(quotas)
        self.total = sum(quotas.values())
        """Slots of an epoch."""
        names = sorted(name for name, quota in quotas.items() if quota)
        heap = [(quotas[name], number) for number, name in enumerate(names)]
        heapq.heapify(heap)
        self._names = names
        self._nodes: list[tuple[int, int, int, int, int]] = []
        """Node, left child, right child, slots of the left child, slots of the node; from the root down."""
        size = len(names)
        while len(heap) > 1:
            left_slots, left = heapq.heappop(heap)
            right_slots, right = heapq.heappop(heap)
            self._nodes.append((size, left, right, left_slots, left_slots + right_slots))
            heapq.heappush(heap, (left_slots + right_slots, size))
            size += 1
        self._nodes.reverse()
        self._size = size

    def counts(self, n: int) -> dict[str, int]:
        """Count the slots of each corpus among the first `n` of an epoch, 0 to `total`."""
        owned = [0] * self._size
        owned[-1] = n
        for node, left, right, left_slots, slots in self._nodes:
            own = owned[node]
            given = (2 * own * left_slots + slots) // (2 * slots)
            owned[left], owned[right] = given, own - given
        found = dict.fromkeys(self.quotas, 0)
        found.update(zip(self._names, owned, strict=False))
        return found

    def counts_at(self, n: Int64Array) -> dict[str, Int64Array]:
        """Count the slots of each corpus among the first n of an epoch, for several n at once; see `counts`.

        Args:
            n: [K] numbers of slots, 0 to `total` each.

        Returns:
            By corpus: [K].
        """
        owned = [n] * self._size
        # Python's integers do not overflow.
        owned[-1] = n.astype(np.int64 if self.total < _MAX_INT64_SLOTS else object)
        for node, left, right, left_slots, slots in self._nodes:
            own = owned[node]
            owned[left] = (2 * left_slots * own + slots) // (2 * slots)
            owned[right] = own - owned[left]
        found = dict.fromkeys(self.quotas, np.zeros_like(n))
        found.update(zip(self._names, (own.astype(np.int64) for own in owned), strict=False))
        return found
