"""The records of unisock's own frameworks; see `unisock.frameworks`.

A module of this package imports its framework and its server when they are asked for.
"""
