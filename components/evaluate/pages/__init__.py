"""What an evaluation writes: tables, report, explorer."""
