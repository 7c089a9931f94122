"""The certificate that the scheduler answers with, from files that somebody else renews or issued,
renewed and made known by the replicas themselves.

A `pair` is a certificate and its key. `files` watches one that is given. `issuing` makes new ones,
`keeping` says what a Secret holds and what of it is due, `issued` does it, and `publishing` tells
API servers whom to trust. `serving` hands the pair in force to every new connection.
"""
