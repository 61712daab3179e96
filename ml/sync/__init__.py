"""Sync: a trainer publishes its updates as small packages, which servers apply while they serve."""
