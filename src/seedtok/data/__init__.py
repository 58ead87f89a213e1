"""Image-text pairs, tar shards, stored codes, mixtures and the public data sets, as batches."""
