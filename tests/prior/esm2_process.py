"""Makes an ESM2 prior in a process of its own, a shard a batch, so that a test can kill it."""

import sys

from components.prior import esm2
from components.prior.prior import prior

esm2.SECONDS_BETWEEN_SHARDS = 0.0
esm2.TOKENS_AT_ONCE["cpu"] = 64

if __name__ == "__main__":
    prior(*sys.argv[1:])
