"""Mutants: small changes to retl, each of which would lose, double, leak or show half of something.

A mutant is a table in one of the TOML files of this folder: the ``file``, the text that it
replaces (``old``, which stands there exactly once) by which (``new``), what a user would
lose (``loses``) and the ``tests`` of its room. A mutant is *noticed* when one of these
tests fails. ``python -m tests.mutants`` tries them all and prints a table.
"""
