"""The problems: what a network is, how it learns from labels, how its output becomes a label."""
