"""The adapters: one module a framework, each imports its framework and no other."""
