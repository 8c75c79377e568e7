"""The conformance suite: the contract's clauses, run over real sockets.

For an adapter's author: see `unisock.conformance.suite`.
"""
