"""Checks a catalog entry against its files before anything is read or trained, on a bounded sample of the files."""
