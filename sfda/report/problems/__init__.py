"""The panel of what changed most, one file a problem."""
