"""Checks that what a cluster is given holds together; `pipelines.validate` runs them all.

A check takes a `Tree` and returns its findings, one line each: where, what was found, what was
expected, what to do.
"""
