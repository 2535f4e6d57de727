"""The instrument: the three designs and their peers, measured side by side and counted.

python -m bench                    runs the default questions, prints the answers, keeps the run
bench.load("results/…")            the measurements of a run as a pandas DataFrame
bench.reference()                  those of the published runs
bench.latest()                     those of your newest run, or else the published ones, and which it is
await bench.live("throughput")     those of a run that is made now
await bench.tried(rate=300)        those of a workload that is tried now
"""

from __future__ import annotations

import signal
import sys

if (
    sys.argv[:1] == ["-m"]
    and __name__ in sys.orig_argv
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the rest is imported, Ctrl-C ends it without a traceback

from bench.results import about, latest, live, load, reference, tried

__all__ = ["about", "latest", "live", "load", "reference", "tried"]
