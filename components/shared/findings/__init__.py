"""What a run came to, in words and with its certainty."""
