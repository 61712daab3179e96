"""What a day's data should look like, as data, and whether it does. Reports verdicts; never mends or drops a row."""
