"""The HTTP API: OpenAI's embeddings for texts and pictures, search, records, models, health."""
