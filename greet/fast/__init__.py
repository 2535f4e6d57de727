"""Faster code to send and receive, with the same promises; used if it was written for the driver's version.

A plain design in `greet.designs` uses only what its driver documents. A fast one is a subclass that
replaces how messages are sent and received. If it uses private names of a driver, these are listed in
a table at the top of its file, and used nowhere else. `?path=plain` in the URL selects the plain path.

The fast path also limits what it reads: if a server sends without end, or announces gigabytes, the
error says so. The plain path reads what its driver reads, limited only by the time-out.
"""
