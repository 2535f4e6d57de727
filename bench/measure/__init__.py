"""The measuring: brokers, workers, load, clock and account."""
