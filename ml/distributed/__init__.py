"""Generic launching of several processes, and the messages they exchange. Nothing here knows what they compute."""
