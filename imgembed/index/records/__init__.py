"""Records of an index: ids and columns in SQLite, and conditions on them."""
