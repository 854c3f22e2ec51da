"""What a run leaves: files, summaries, reports."""
