"""What full activity is: the scale of every layer, measured and corrected."""
