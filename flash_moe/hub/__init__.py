"""Models at the Hugging Face hub: what a repository holds, and its bytes."""
