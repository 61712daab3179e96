"""`make loop`: starts and watches the processes of a closed loop, and shows its progress. `ml.loop` simulates and measures."""
