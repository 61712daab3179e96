"""The closed loop on simulated users with known tastes: their requests and clicks, and the quality of their recommendations.

`orchestration.loop` starts the processes. Nothing here starts a service, trains or reads a model.
"""
