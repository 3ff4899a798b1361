"""all-MiniLM-L6-v2 and real sentences, see README.md."""
