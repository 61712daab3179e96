"""The closed loop on simulated users with known tastes: their requests and clicks, and how good what they were shown was.

`orchestration.loop` starts the processes. Nothing here starts a service, trains or reads a model.
"""
