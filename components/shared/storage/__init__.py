"""Files wherever they are and whatever form they have."""
