"""Recommendations for all users at the end of a day, by the two stages of the service on Spark's executors."""
