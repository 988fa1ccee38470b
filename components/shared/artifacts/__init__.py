"""What stages hand to each other."""
