"""Ranking of the clicked item among all live items: metrics, comparisons and verdicts for logs of positives.

`requests` ranks the clicks of a reported day, by models and by standing sources. `recall` ranks those of a study, in which a
two-tower model can learn from each slice after it is scored.
"""
