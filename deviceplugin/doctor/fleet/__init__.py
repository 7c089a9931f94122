"""What keeps pods in a cluster from getting their devices: the webhook, the scheduler, all nodes,
pods that wait, quotas. It asks the API server only, and changes nothing.
"""
