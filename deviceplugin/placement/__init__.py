"""Where a pod's containers fit: *observe → request → check → rank → choose → write*.

Pure functions over frozen values, one node at a time; what a vendor has beyond the standard rules
it says in `deviceplugin.vendor.scheduling`. A scheduler asks this for the nodes that are worth
asking, an explanation for every one, and a test for all.
"""
