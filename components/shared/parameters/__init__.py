"""What a run is asked for, checked before it starts."""
