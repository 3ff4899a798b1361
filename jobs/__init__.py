"""Jobs: the command line, the driver and the executors that lend shards to scorers."""
