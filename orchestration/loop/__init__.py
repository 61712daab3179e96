"""`make loop`: starts and watches the processes of a closed loop, and shows how it goes. `ml.loop` simulates and measures."""
