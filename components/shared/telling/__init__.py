"""What people are told: errors, progress, pages."""
