"""The recommendation service: two stages over live items, kept up to date by events and by the deltas of online training."""
