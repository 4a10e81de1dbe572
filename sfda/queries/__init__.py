"""Which samples of the target a person should label next; one file each."""
