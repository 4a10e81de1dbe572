"""Ways to adapt a source model to unlabelled target data: one file each, found by being here."""
