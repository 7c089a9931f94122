"""Scheduled allocation: a scheduler decided, the node finds out for whom kubelet asks, proves it
and hands over exactly that.

*identity* says who asks, *matching* what the scheduler gave that container, *admission* whether
this node can honour it, *ledger* what has been handed over; *deferred* and *locked* are the two
orders in which these happen.
"""
