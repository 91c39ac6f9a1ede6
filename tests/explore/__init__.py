"""Explicit-state search over the decisions of a hub and its machines: every order of events within a budget of faults.

Called: the machine's `advance` and what else decides about a record, its fence (`may_start`), `judge`, the meaning of cancel
jobs; the hub's rules and states, what a submit means for others, ids of jobs of events. `bindings.py` alone imports them.
Modelled: store, engine, network, clock, loops (which call a record owes, when), the queue's order, the outbox of checks: the
steps in `machine.py`, `surroundings.py`, `hub.py`, `network.py`, `answers.py`. `invariants.py` says what has to hold.
`test_mirror.py` compares what is modelled of the machine's loops and the hub's store with the real ones, by random stories.
"""
