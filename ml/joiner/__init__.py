"""The joiner: pairs a log of impressions with a log of actions, by day for the lake and continuously for online training."""
