"""File formats: Hugging Face folders, tokenizers, chats, rows of data, JSON, and code that users add."""
