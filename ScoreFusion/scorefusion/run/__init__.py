"""One run: from what a user asked to what is written."""
