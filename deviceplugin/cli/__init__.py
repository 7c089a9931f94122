"""The command line: the one place that may know every room; each command imports only its own."""
