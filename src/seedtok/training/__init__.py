"""The training engine: run configuration, loop, checkpoints, ranks; it knows no stage."""
