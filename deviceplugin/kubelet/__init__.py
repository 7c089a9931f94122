"""Everything that talks to kubelet: `service` answers it, `server` serves and registers a
resource, `sockets` names and watches the socket directory, `podresources` asks who holds what.
"""
