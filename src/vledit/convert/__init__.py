"""Makes Hugging Face folders of models that were published in pieces or under other names."""
