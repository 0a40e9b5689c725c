"""Text: files of every kind, tokenizers, corpora for language models, reviews to classify."""
