"""The Kubernetes API server as the agent sees it: raw JSON over the official client, projected at
once to small frozen values; no generated models (design: memory of the node agent).
"""
