"""In which bucket an entity is kept, and what the keys of a bucket begin with.

A bucket is what Redis Cluster keeps on one node: all of its keys share a hash tag. How many there
are is part of that tag, as the layout is: another number is another store beside the old one.
"""

from __future__ import annotations

import zlib
from binascii import crc_hqx
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from tenuto.features.layout import Layout

MAX_BUCKETS = 1_024
"""So many at most: each is a command of its own in every read."""

_CLUSTER_SLOTS = 16_384


def key_prefix(layout: Layout, namespace: str = "", bucket: int = 0, buckets: int = 1) -> str:
    """Prefix of every key of a layout's bucket; its hash tag keeps them in one cluster slot."""
    name = f"tenuto.{namespace}." if namespace else "tenuto."
    tag = name + layout.digest
    return f"{{{tag}}}:" if buckets == 1 else f"{{{_tag(tag, bucket, buckets)}}}:"


def buckets_key(layout: Layout, namespace: str = "") -> str:
    """Key that says in how many buckets the layout was entered last, where in several."""
    return f"{key_prefix(layout, namespace)}buckets"


def buckets_of(keys: Sequence[bytes], buckets: int) -> NDArray[np.int64]:
    """The bucket of each entity, from its key without the prefix.

    The CRC-32 that cuts a batch into chunks, mixed as MurmurHash3 ends: a bucket's entities then
    fall into chunks as evenly as all of them do.
    """
    mixed = np.fromiter(map(zlib.crc32, keys), np.uint32, len(keys))
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return ((mixed.astype(np.uint64) * np.uint64(buckets)) >> np.uint64(32)).astype(np.int64)


def cluster_slot(prefix: str) -> int:
    """The slot of Redis Cluster that keys with this prefix are in, by its hash tag."""
    tag = prefix[prefix.index("{") + 1 : prefix.index("}")]
    return crc_hqx(tag.encode(), 0) % _CLUSTER_SLOTS


@lru_cache(maxsize=4 * MAX_BUCKETS)
def _tag(name: str, bucket: int, buckets: int) -> str:
    """A tag whose slot is in the bucket's own part of all slots.

    Nodes have equal ranges of slots, and so nearly equal numbers of buckets; tags as they come
    would lay three buckets of three nodes onto one of them one time in nine.
    """
    for number in count():
        tag = f"{name}.{bucket}of{buckets}.{number}"
        if cluster_slot(f"{{{tag}}}") * buckets // _CLUSTER_SLOTS == bucket:
            return tag
    raise AssertionError("unreachable: a hash finds every part")
