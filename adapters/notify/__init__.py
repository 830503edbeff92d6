"""Tells operators what they must know."""
