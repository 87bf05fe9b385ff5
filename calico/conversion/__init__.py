"""Other libraries' weights -> a CALICO checkpoint: `calico weights assemble`, `convert` and `inspect`.

`layouts/` says, as data, under which names each library keeps a block; `sources` reads its files by the slice, from
disk or from the hub; `coverage` matches the two and accounts for every key and every place; `writer` writes shard by
shard.
No weights come with this repository, and none that are made here were trained together unless their source was.
"""
