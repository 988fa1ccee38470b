"""Output of an evaluation: tables, report, explorer."""
