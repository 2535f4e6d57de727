"""Faults for real, and Jepsen's accounting of what they did to the messages.

A publisher and a member of each of two groups, processes of their own, carry messages while a broker, a member or
a connection is hurt. Each writes a journal, which also outlives a SIGKILL of it. When the publisher has
stopped, end markers are published until every group has handled one; then what is still missing is lost.

    journal      what each process writes down, and the accounting: the format is described there
    recount      another accountant, who shares no code with the first
    duty         what a publisher or a member does, in a process of its own
    stage        three such processes on a topic, and the scene: a broker with some stages at it
    injections   the faults of one broker and of those at it
    cluster      the faults of a cluster of three
    catalogue    all faults, the controls, and what breaks a promise
    arena        brokers to be hurt, and the campaigns: a fault against all designs and guarantees at once

Each imports from those above it only.
"""
