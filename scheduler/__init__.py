"""The cluster's half: *observe → request → fit → score → bind*.

A kube-scheduler extender and a webhook in one process. What is decided, and why, is
`deviceplugin.placement`'s; this room knows the cluster around it.
"""
