"""Measurements that take minutes; each module prints its figures beside their gates."""
