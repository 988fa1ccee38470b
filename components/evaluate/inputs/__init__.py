"""Checked inputs of an evaluation."""
