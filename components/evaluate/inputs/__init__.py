"""What an evaluation is given, checked."""
