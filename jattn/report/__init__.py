"""`python -m jattn report`: a comparison, or runs, as one HTML page that needs no network."""
