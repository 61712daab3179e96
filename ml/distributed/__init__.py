"""Launching of several processes, and the messages that they exchange. Nothing here depends on what they compute."""
