"""The runs of `bench decide`: targets, adaptations, and what is decided of each."""
