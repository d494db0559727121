"""Model folders, and their publication on the Hugging Face Hub."""
