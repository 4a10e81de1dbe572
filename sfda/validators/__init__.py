"""Scores of a model on the target without labels: one file each, found by being here."""
