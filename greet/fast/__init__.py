"""Faster ways to send and receive, under the same promises; taken where the driver is of a version that they know.

A plain design in `greet.designs` uses what its driver documents. A fast one is a subclass of it that
replaces how bodies are sent and received. What it uses that is private to a driver stands in a table
at the top of its file, and nowhere else. `?path=plain` in the URL takes the plain way.

The fast ways also bound what they read: a server that sends without end, or says that gigabytes will
come, is told as what it is. A plain way reads what its driver reads, bounded by the time-out alone.
"""
