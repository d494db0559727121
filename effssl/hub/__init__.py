"""Model folders, and the Hub that they are published on."""
