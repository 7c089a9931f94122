"""Doubles of the outside world, shipped for those who write vendors: the embedded kubelet."""
