"""Days of simulated time: nothing missed or doubled, memory flat, and what a day adds to the databases."""
