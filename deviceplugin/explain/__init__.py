"""What a scheduler would do, and why, away from the scheduler: *capture → rebuild → judge → mend*.

A cluster is captured once, reduced to what decisions go by, and rebuilt by the scheduler's own
code; a pod is judged by that code too, and what would make it fit is tried before it is said.
"""
