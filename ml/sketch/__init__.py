"""Looks at a folder of logs and writes a first catalog entry: files, format, columns, roles and features, with comments."""
