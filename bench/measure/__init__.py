"""The measuring.

runner   a run from its start to its files
run      the cells of each question, warmed up and repeated in rounds
loops    what publishes and consumes in the worker processes
account  which messages came, and which did not
pool     the worker processes
sites    the brokers
doctor   what can be had here, and what would spoil figures
"""
