"""Weights of other implementations, to and from jattn: the released codes (`original`), GPT-2 and timm's ViT."""
