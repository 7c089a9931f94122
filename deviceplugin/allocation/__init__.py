"""Which devices a container gets: `preferred` advises kubelet, `identity` names an allocation,
`deferred` finds the owner when the container starts.
"""
