"""Section of the contract."""
