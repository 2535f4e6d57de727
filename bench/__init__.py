"""The instrument: the three designs and their peers, measured side by side and counted.

python -m bench                    runs the default questions, prints the answers, keeps the run
bench.load("results/…")            the measurements of a run as a pandas DataFrame
bench.reference()                  those of the published runs
await bench.live("throughput")     those of a run that is made now
"""

from __future__ import annotations

from bench.results import about, live, load, reference

__all__ = ["about", "live", "load", "reference"]
