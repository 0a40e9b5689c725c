"""`python -m jattn analyze`: what the attention of a trained model does, and what training did to it."""
