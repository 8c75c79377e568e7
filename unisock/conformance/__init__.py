"""The conformance suite: every clause of the contract, for any adapter."""
