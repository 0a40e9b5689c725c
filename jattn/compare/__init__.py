"""`python -m jattn compare`: a grid of runs with everything else equal, and what their differences show."""
