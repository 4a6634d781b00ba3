"""Bulk pull (standard `ivo://skao.int/std/VOSpace#bulk-pull-1.0`): one job that fetches many files."""
