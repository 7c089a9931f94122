"""Vendors by declaration: a YAML file says count, memory, cores, device nodes and variables.

`node.declared_node` and `scheduling.declared_scheduling` make the two halves of such a file
(docs/writing-a-vendor.md).
"""
