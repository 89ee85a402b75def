"""How things are written in files: Hugging Face folders, tokenizers, chats, rows of data, JSON, and code that users add."""
