"""What other programs see: kubelet's gRPC services, quantities, configuration of peers."""
