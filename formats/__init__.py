"""How things are written in files: Hugging Face folders, chat templates, JSON."""
