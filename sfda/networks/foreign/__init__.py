"""Networks of strangers: any importable class, or one in a file that travels in the bundle."""
