"""Rehearsals at the source site: adaptations to synthetic shifts whose gain is known."""
