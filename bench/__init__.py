"""The instrument: the three designs and their peers, measured side by side and counted.

python -m bench            runs the default questions, prints the answers, keeps the run
bench.load("results/…")    the measurements of a run as a pandas DataFrame
"""

from __future__ import annotations

from bench.results import about, load

__all__ = ["about", "load"]
