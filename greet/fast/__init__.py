"""Faster code to send and receive, with the same promises; used if it was written for the driver's version.

A plain design in `greet.designs` uses what its driver documents, and a private name only where the
driver has nothing else: the reason stands beside it. A fast one is a subclass that replaces how
messages are sent and received. The private names that it uses are listed in a table at the top of its
file. `?path=plain` in the URL selects the plain path.

The fast path also limits what it reads: if a server sends without end, or announces gigabytes, the
error says so. The plain path reads what its driver reads, limited only by the time-out.
"""
