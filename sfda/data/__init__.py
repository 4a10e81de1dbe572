"""Everything that opens a data file: manifests, rows, decoded images, views, loaders."""
