"""The bounds of the format, in one place: a reader checks them before it allocates.

They are part of the contract (docs/format.md): a writer never exceeds them, so a reader may rely on
them. Raising one is a new minor version of the format.
"""

from __future__ import annotations

# Frames
CHUNK_SIZE = 1 << 20  # bytes of address space that one chunk covers
MAX_META_SIZE = 1 << 16  # bytes of a frame's meta
MAX_BLOCK_SIZE = 32 << 20  # plain bytes of one records frame or index frame
MAX_RUNS = 4096  # runs of one chunk
MAX_INDEX_SIZE = 256 << 20  # plain bytes of the list of chunks of an image without contents

# Records
MAX_RECORDS = 1 << 22  # records of one image
MAX_RECORDS_SIZE = 256 << 20  # plain bytes of all records of one image
MAX_VALUES_WEIGHT = 64 << 20  # of all records (formats.wire.Budget), and besides it
VALUES_WEIGHT_PER_BYTE = 400  # for each byte that is stored of them
MAX_RECORDS_RATIO = 16  # a writer does not compress records better than this beyond the first
UNBOUNDED_RATIO_SIZE = 4 << 20  # so many bytes, so that honest ones never weigh too much
MAX_DEPTH = 32  # nested records, arrays, maps and JSON values within one record
MAX_ITEMS = 1 << 17  # elements of one array or map
MAX_TEXT_SIZE = 1 << 20  # bytes of one text
MAX_BLOB_SIZE = 8 << 20  # bytes of one byte string; a pipe's content is at most 1 MiB by default
INT_MIN = -(1 << 63)
INT_MAX = (1 << 64) - 1
