"""Candidates for recommendations: which items are live, and standing sources that rank them without a trained model.

Reports use the sources as baselines, and a service can use them beside a trained model. Sources learn from clicks in time order
and rank live items for requests; see `ml.retrieval.source`.
"""
