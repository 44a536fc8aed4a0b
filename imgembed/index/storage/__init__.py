"""An index on disk: a folder of files with checksums that is whole at every moment."""
