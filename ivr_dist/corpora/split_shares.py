"""Splits by shares: whole groups of samples are assigned to splits, by a hash.

A pure function of the groups, their sizes and a seed: the order of the samples has no influence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import xxhash

from ivr_dist.corpora.source import SampleRef
from ivr_dist.errors import DataError
from ivr_dist.shards.sample_ids import utf8


def assign(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign each group to a split.

    In the order of a hash of seed and name, a group goes to the split that lacks most samples of its share. A split
    exceeds its share by less than the largest group, and no split remains empty.

    Args:
        sizes: Samples by group, each 1 or more.
        shares: By split, in any unit, each above 0.
        seed: Seed of the hash, 0 to 2^64 - 1.

    Returns:
        Split by group.

    Raises:
        ValueError: There are fewer groups than splits.
    """
    if len(sizes) < len(shares):
        raise ValueError(f"{len(sizes)} groups cannot fill {len(shares)} splits")
    total, whole = sum(sizes.values()), sum(shares.values())
    lacking = {split: total * share / whole for split, share in shares.items()}
    empty = set(shares)
    split_of: dict[str, str] = {}
    ordered = sorted(sizes, key=lambda group: (xxhash.xxh3_64_intdigest(utf8(group), seed), group))
    for position, group in enumerate(ordered):
        candidates = empty if len(ordered) - position == len(empty) else lacking
        # Of equal splits the first name, so that the order of the shares has no influence either.
        split = max(sorted(candidates), key=lambda name: lacking[name])
        lacking[split] -= sizes[group]
        empty.discard(split)
        split_of[group] = split
    return split_of


def split_by_shares(
    refs: Sequence[SampleRef], shares: Mapping[str, float], seed: int, where: str
) -> dict[str, list[SampleRef]]:
    """Assign samples to splits; a sample without a group is a group of its own.

    Args:
        refs: All samples.
        shares: By split.
        seed: Seed of the hash.
        where: The corpus, for errors.

    Returns:
        Samples by split, in the order of the shares and of the samples.

    Raises:
        DataError: There are fewer groups than splits.
    """
    # A group and an id may have the same name.
    keys = [f"group {ref.group}" if ref.group is not None else f"id {ref.id}" for ref in refs]
    try:
        split_of = assign(Counter(keys), shares, seed)
    except ValueError as error:
        raise DataError(str(error), where=where, remedy="leave splits or the group out") from None
    splits: dict[str, list[SampleRef]] = {name: [] for name in shares}
    for key, ref in zip(keys, refs, strict=True):
        splits[split_of[key]].append(ref)
    return splits
