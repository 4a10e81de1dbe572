"""Benchmarks: each writes `bench/<name>.json`; what is there already is not measured again."""
