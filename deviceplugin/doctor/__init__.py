"""What is wrong with this node, in words and with a remedy.

Each module but a few is one group of checks: frozen facts, `gather` that collects them, and pure
checks that turn them into findings. `model` says what a finding is, `scene` what a group is told,
`examine` runs all groups so that none stops another.
"""
