"""A corpus at rest: task files to prediction files, shard by shard, on this machine or on a cluster."""
