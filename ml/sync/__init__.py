"""Sync: what a trainer has learned, published as small packages that servers apply while they serve."""
